"""The caption encoder of a database, by the name of its text model."""

from __future__ import annotations

from motionrag.encoders import load_text_encoder
from motionrag.retrieval.vectors import CaptionEncoder


def load_caption_encoder(
    model: str | None = None, *, revision: str | None = None, device: str = "cpu"
) -> CaptionEncoder:
    """Load it.

    Args:
        model: None or "minilm" for the bundled one; else a folder or hub id of a sentence-transformers model.
        revision: Branch, tag or commit on the hub.
        device: Where it runs.

    Raises:
        MotionRAGError: If the model is missing, damaged or of another kind.
    """
    return CaptionEncoder(load_text_encoder(model or "minilm", revision=revision, device=device))
