"""The bundle: both resamplers, the Motion Context Transformer and the Motion-Adapter of one base model.

It is what training makes, what a user loads, and what the tokens in a database belong to.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelHubMixin, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from torch import Tensor, nn

from motionrag import checkpoint
from motionrag.config import parse
from motionrag.errors import MotionRAGError
from motionrag.models.adapter import AdapterConfig, MotionAdapter
from motionrag.models.context import ContextConfig, MotionContextTransformer
from motionrag.models.resampler import PerceiverResampler, ResamplerConfig


@dataclass(frozen=True, kw_only=True)
class BundleConfig:
    """Sizes of all parts, and the base they belong to."""

    adapter: AdapterConfig
    """The Motion-Adapter; names the base model and its sites."""
    motion_resampler: ResamplerConfig = ResamplerConfig()
    """Motion encoder features to motion tokens."""
    appearance_resampler: ResamplerConfig = ResamplerConfig(input_dim=1024)
    """Appearance encoder features to appearance tokens."""
    context: ContextConfig = ContextConfig()
    """The Motion Context Transformer."""

    def __post_init__(self) -> None:
        token = (self.context.queries, self.context.width)
        for name in ("motion_resampler", "appearance_resampler"):
            part: ResamplerConfig = getattr(self, name)
            if (part.queries, part.output_dim) != token:
                raise MotionRAGError(
                    f"BundleConfig: {name} makes {part.queries} tokens {part.output_dim} wide, "
                    f"context takes {token[0]} tokens {token[1]} wide"
                )


class MotionBundle(
    nn.Module,
    ModelHubMixin,
    library_name="motionrag",
    paper_url="https://arxiv.org/abs/2509.26391",
    pipeline_tag="image-to-video",
    tags=["motionrag", "retrieval-augmented-generation"],
):
    """All trained parts of the method for one base model.

    `save_pretrained(folder)`, `from_pretrained(folder or hub id)` and `push_to_hub(id)` are
    huggingface_hub's; loading is strict and checks the fingerprint.
    """

    def __init__(self, config: BundleConfig) -> None:
        super().__init__()
        self.config = config
        self.motion_resampler = PerceiverResampler(config.motion_resampler)
        self.appearance_resampler = PerceiverResampler(config.appearance_resampler)
        self.context = MotionContextTransformer(config.context)
        self.adapter = MotionAdapter(config.adapter)

    def adapt(self, motion: Tensor, appearance: Tensor, target_appearance: Tensor) -> Tensor:
        """Adapt the motion of references to the target image.

        Args:
            motion: Motion tokens of the references [B,K,Q,D], **most similar first**, as retrieval gives them.
            appearance: Appearance tokens of their first frames [B,K,Q,D], in the same order.
            target_appearance: Appearance tokens of the target image [B,Q,D].

        Returns:
            Motion tokens for the target [B,Q,D].
        """
        blocks = torch.cat([appearance.flip(1), target_appearance[:, None]], dim=1)
        return self.context(motion.flip(1), blocks)[:, -1]

    def fingerprint(self) -> str:
        """SHA-256 of all weights and sizes, as written into config.json."""
        return checkpoint.fingerprint(self.state_dict(), asdict(self.config))

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> str | None:
        """Write the bundle into a folder, whole or not at all; see huggingface_hub for the options."""
        folder = Path(save_directory)
        kwargs.setdefault("repo_id", folder.name)
        with checkpoint.replacing(folder) as temporary:
            return super().save_pretrained(temporary, **kwargs)

    def _save_pretrained(self, save_directory: Path) -> None:
        checkpoint.save(save_directory, self.state_dict(), asdict(self.config))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> MotionBundle:
        """Load a bundle from a local folder or a hub id; see huggingface_hub for the options.

        Raises:
            MotionRAGError: If it is not there, damaged, changed since it was saved, or incomplete.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        except (HFValidationError, HfHubHTTPError, json.JSONDecodeError, OSError) as error:
            raise MotionRAGError(
                f"no bundle at {str(pretrained_model_name_or_path)!r}: neither a local folder with "
                f"{checkpoint.CONFIG_NAME} and {checkpoint.WEIGHTS_NAME}, nor a hub id that can be reached ({error})"
            ) from error

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **kwargs: Any) -> MotionBundle:
        if Path(model_id).is_dir():
            files = [Path(model_id) / name for name in (checkpoint.WEIGHTS_NAME, checkpoint.CONFIG_NAME)]
        else:
            kwargs.pop("config", None)  # what the mixin read of it; read again below, with the weights
            files = [
                Path(hf_hub_download(model_id, name, **kwargs))
                for name in (checkpoint.WEIGHTS_NAME, checkpoint.CONFIG_NAME)
            ]
        state, document = checkpoint.load(*files)
        with torch.device("meta"):
            bundle = cls(parse(BundleConfig, document, where=f"{model_id}/{checkpoint.CONFIG_NAME}"))
        checkpoint.load_strict(bundle, state, where=model_id)
        return bundle
