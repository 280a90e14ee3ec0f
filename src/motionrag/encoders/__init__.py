"""Text, motion and appearance encoders behind two small protocols (paper, section 3.2).

Names are imported on first use: `EncoderInfo` and the protocols come without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from motionrag.encoders.loading import load_appearance_encoder, load_motion_encoder
    from motionrag.encoders.protocols import EncoderInfo, TextEncoder, VideoEncoder
    from motionrag.encoders.text import load_text_encoder

_EXPORTS = {
    "EncoderInfo": "motionrag.encoders.protocols",
    "TextEncoder": "motionrag.encoders.protocols",
    "VideoEncoder": "motionrag.encoders.protocols",
    "load_appearance_encoder": "motionrag.encoders.loading",
    "load_motion_encoder": "motionrag.encoders.loading",
    "load_text_encoder": "motionrag.encoders.text",
}

__all__ = [
    "EncoderInfo",
    "TextEncoder",
    "VideoEncoder",
    "load_appearance_encoder",
    "load_motion_encoder",
    "load_text_encoder",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'motionrag.encoders' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
