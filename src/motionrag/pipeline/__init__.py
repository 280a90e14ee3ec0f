"""The whole method: retrieve, adapt, attach, generate."""

from motionrag.pipeline.rag import MotionRAG
from motionrag.pipeline.result import GenerationSettings, Video

__all__ = ["GenerationSettings", "MotionRAG", "Video"]
