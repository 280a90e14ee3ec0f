"""Videos in and out: reading clips, probing, cutting, writing, comparing; NumPy, Pillow and PyAV only."""

from motionrag.video.cuts import scene_cuts, split
from motionrag.video.errors import VideoError
from motionrag.video.files import content_hash
from motionrag.video.image import read_image, to_rgb
from motionrag.video.prepare import Preparation
from motionrag.video.probe import VideoInfo, probe
from motionrag.video.read import pick, read_clip, read_view
from motionrag.video.sheet import Strip, sheet
from motionrag.video.signature import DUPLICATE_COSINE, signature
from motionrag.video.write import write_video

__all__ = [
    "DUPLICATE_COSINE",
    "Preparation",
    "Strip",
    "VideoError",
    "VideoInfo",
    "content_hash",
    "pick",
    "probe",
    "read_clip",
    "read_image",
    "read_view",
    "scene_cuts",
    "sheet",
    "signature",
    "split",
    "to_rgb",
    "write_video",
]
