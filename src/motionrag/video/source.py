"""One opened video: its file checked, its picture stream chosen, its size guarded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

import av
import av.error
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from motionrag.video.errors import VideoError
from motionrag.video.sniff import missing_tail, mp4_index, read_head, unreadable

MAX_PIXELS = 100_000_000
"""Largest accepted frame; a damaged header can claim any size."""

_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image


@dataclass(frozen=True, kw_only=True)
class Source:
    """An opened video, before any frame is decoded."""

    path: str
    """As given."""
    container: InputContainer
    """The opened file."""
    stream: VideoStream
    """Its picture stream; the demuxer drops the others."""
    cut_short: str | None
    """How much of the file is missing, by its own account of its length."""

    @property
    def time_base(self) -> Fraction:
        """Seconds of one timestamp tick."""
        return self.stream.time_base or Fraction(1, av.time_base)

    @property
    def aspect(self) -> Fraction:
        """Width over height of one pixel; implausible values count as square."""
        aspect = self.stream.sample_aspect_ratio
        return aspect if aspect and Fraction(1, 8) <= aspect <= 8 else Fraction(1)


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Source]:
    """Open a video for reading; FFmpeg's errors inside the block become a `VideoError`.

    Raises:
        VideoError: If there is no such file, or it is no video that can be decoded.
    """
    path = os.fspath(path)
    head = read_head(path)
    try:
        # "file:" keeps names such as "take:2.mp4" from being read as a protocol
        container = av.open(f"file:{path}", metadata_errors="replace", container_options=_OPTIONS)
    except av.error.FFmpegError as error:
        raise VideoError(path, unreadable(path, head)) from error
    with container:
        stream = _choose(path, head, container)
        try:
            yield Source(path=path, container=container, stream=stream, cut_short=missing_tail(path, head))
        except av.error.FFmpegError as error:
            raise VideoError(path, f"damaged: {(error.strerror or 'it cannot be decoded').lower()}") from error


_OPTIONS = {
    "protocol_whitelist": "file",  # playlists must not reach the network
    "fpsprobesize": "0",  # rates come from the timestamps, not from guesses while opening
}


def _choose(path: str, head: bytes, container: InputContainer) -> VideoStream:
    """The picture stream, with every other stream switched off."""
    videos = [stream for stream in container.streams.video if not stream.disposition & _PICTURES]
    if not container.streams:
        empty = "no frames: its index (moov) lists none"
        raise VideoError(path, empty if b"mvhd" in mp4_index(path) else unreadable(path, head))
    if not videos:
        kinds = sorted({stream.type for stream in container.streams if stream.type != "video"})
        cover = ["cover art"] if container.streams.video else []
        raise VideoError(path, f"no video stream, only {' and '.join(kinds + cover)}")
    stream = next((video for video in videos if video.disposition & Disposition.default), videos[0])
    _check_decodable(path, container, stream)
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    return stream


def _check_decodable(path: str, container: InputContainer, stream: VideoStream) -> None:
    if getattr(stream, "codec_context", None) is None:  # FFmpeg knows no decoder
        names = [track[12:16].decode("latin-1") for track in mp4_index(path).split(b"stsd")[1:]]
        if {"encv", "drmi"} & set(names):
            raise encrypted(path)
        raise VideoError(path, f"unsupported codec {' or '.join(names) or 'of unknown name'}")
    if container.format.name.endswith("_pipe") or container.format.name == "image2":
        raise VideoError(path, f"is a still image ({stream.codec.name}), not a video")
    if not stream.width * stream.height:
        raise VideoError(path, "damaged: it declares no frame size, or an impossible one")
    if stream.width * stream.height > MAX_PIXELS:
        raise too_large(path, stream.width, stream.height)


def encrypted(path: str) -> VideoError:
    """The refusal of a protected video."""
    return VideoError(path, "encrypted (DRM); a copy without protection is needed")


def too_large(path: str, width: int, height: int) -> VideoError:
    """The refusal of a video with frames over `MAX_PIXELS`."""
    limit = MAX_PIXELS // 10**6
    return VideoError(path, f"declares frames of {width}x{height}, over the accepted {limit} megapixels")
