"""The encoders of one database, put together: decoded clips in, the arrays of its rows out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from motionrag.errors import MotionRAGError
from motionrag.retrieval.schema import DatabaseSettings, TokenInfo
from motionrag.retrieval.vectors import CaptionEncoder, method_fingerprint
from motionrag.types import WHOLE, View

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from motionrag.encoders import VideoEncoder
    from motionrag.video import Preparation


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """A resampler of a bundle, as retrieval sees it: a function, and the facts by which its tokens are known."""

    resample: Callable[[Tensor], Tensor]
    """Features [B,L,D'] to tokens [B,Q,D]."""
    info: TokenInfo
    """What it is."""


@dataclass(frozen=True, kw_only=True)
class ClipEncoders:
    """All that turns clips and captions into what a database keeps."""

    caption: CaptionEncoder
    """For captions and prompts."""
    video: Mapping[str, VideoEncoder] = field(default_factory=dict)
    """"motion" and "appearance", or one of them, or neither."""
    tokenizers: Mapping[str, Tokenizer] = field(default_factory=dict)
    """The same names -> what makes tokens of their features."""
    features: bool = False
    """Whether to keep the features themselves."""

    def __post_init__(self) -> None:
        for kind in self.tokenizers:
            if kind not in self.video:
                raise MotionRAGError(f"{kind} tokens are made of {kind} features: name the {kind} encoder too")
        for kind, encoder in self.video.items():
            if encoder.preparation.view != self.view:
                raise MotionRAGError(f"the {kind} encoder sees {encoder.preparation.view}, the other {self.view}")

    @property
    def settings(self) -> DatabaseSettings:
        """What a database made with these says of itself."""
        infos: dict[str, Any] = {kind: encoder.info for kind, encoder in self.video.items()}
        infos |= {f"{kind}_tokens": tokenizer.info for kind, tokenizer in self.tokenizers.items()}
        return DatabaseSettings(
            text=self.caption.info,
            caption_method=method_fingerprint(),
            text_width=self.caption.width,
            features=self.features,
            view=self.view,
            **infos,
        )

    @property
    def view(self) -> View:
        """What the video encoders see of a clip."""
        return next((encoder.preparation.view for encoder in self.video.values()), WHOLE)

    @property
    def preparations(self) -> dict[str, Preparation]:
        """What the decode workers need to know of the video encoders."""
        return {kind: encoder.preparation for kind, encoder in self.video.items()}

    def encode_clips(
        self, prepared: Sequence[Mapping[str, NDArray[np.uint8]]]
    ) -> list[dict[str, NDArray[np.float16]]]:
        """Prepared frames of B clips to their arrays, named as `DatabaseSettings.arrays` names them.

        Raises:
            MotionRAGError: If an encoder makes values that are not finite.
        """
        import torch

        rows: list[dict[str, NDArray[np.float16]]] = [{} for _ in prepared]
        for kind, encoder in self.video.items() if prepared else ():
            with torch.inference_mode():
                features = encoder.encode(np.stack([clip[kind] for clip in prepared]))
                made = {f"{kind}_vector": encoder.pool(features)}
                if self.features:
                    made[f"{kind}_features"] = features
                if kind in self.tokenizers:
                    made[f"{kind}_tokens"] = self.tokenizers[kind].resample(features)
            for name, values in made.items():
                arrays = values.to(device="cpu", dtype=torch.float16).numpy()
                if not np.isfinite(arrays).all():
                    raise MotionRAGError(f"{encoder.info.model}: makes values in {name} that float16 does not hold")
                for row, array in zip(rows, arrays, strict=True):
                    row[name] = array
        return rows
