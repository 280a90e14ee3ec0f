"""motionrag: motion retrieval-augmented image-to-video generation (MotionRAG, arXiv 2509.26391).

Public names are imported on first use, so that `import motionrag` stays quick and needs no GPU.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from motionrag.bases.attachment import AttachedAdapter, attach, new_adapter
    from motionrag.errors import MotionRAGError
    from motionrag.models.adapter import AdapterConfig, MotionAdapter
    from motionrag.models.bundle import BundleConfig, MotionBundle
    from motionrag.models.context import ContextConfig, MotionContextTransformer
    from motionrag.models.resampler import PerceiverResampler, ResamplerConfig
    from motionrag.pipeline import GenerationSettings, MotionRAG, Video
    from motionrag.retrieval.search import Retriever
    from motionrag.retrieval.store import MotionDatabase
    from motionrag.types import BaseSpec, Clip, ClipRecord, Reference, Sampling, ScaleRange

_EXPORTS = {
    "AdapterConfig": "motionrag.models.adapter",
    "AttachedAdapter": "motionrag.bases.attachment",
    "BaseSpec": "motionrag.types",
    "BundleConfig": "motionrag.models.bundle",
    "Clip": "motionrag.types",
    "ClipRecord": "motionrag.types",
    "ContextConfig": "motionrag.models.context",
    "GenerationSettings": "motionrag.pipeline",
    "MotionAdapter": "motionrag.models.adapter",
    "MotionBundle": "motionrag.models.bundle",
    "MotionContextTransformer": "motionrag.models.context",
    "MotionDatabase": "motionrag.retrieval.store",
    "MotionRAG": "motionrag.pipeline",
    "MotionRAGError": "motionrag.errors",
    "PerceiverResampler": "motionrag.models.resampler",
    "Reference": "motionrag.types",
    "ResamplerConfig": "motionrag.models.resampler",
    "Retriever": "motionrag.retrieval.search",
    "Sampling": "motionrag.types",
    "ScaleRange": "motionrag.types",
    "Video": "motionrag.pipeline",
    "attach": "motionrag.bases.attachment",
    "new_adapter": "motionrag.bases.attachment",
}

__all__ = [
    "AdapterConfig",
    "AttachedAdapter",
    "BaseSpec",
    "BundleConfig",
    "Clip",
    "ClipRecord",
    "ContextConfig",
    "GenerationSettings",
    "MotionAdapter",
    "MotionBundle",
    "MotionContextTransformer",
    "MotionDatabase",
    "MotionRAG",
    "MotionRAGError",
    "PerceiverResampler",
    "Reference",
    "ResamplerConfig",
    "Retriever",
    "Sampling",
    "ScaleRange",
    "Video",
    "__version__",
    "attach",
    "new_adapter",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'motionrag' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
