"""The bundle: both resamplers, the Motion Context Transformer and the Motion-Adapter of one base model.

It is what training makes, what a user loads, and what the tokens in a database belong to.
"""

from __future__ import annotations

import shutil
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
from motionrag.models.fusion import fuse
from motionrag.models.resampler import PerceiverResampler, ResamplerConfig
from motionrag.types import WHOLE, View


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
    view: View = WHOLE
    """What the encoders saw of each clip in training, and see again of references and targets."""

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

    `save_pretrained(folder)` and `push_to_hub(id)` are huggingface_hub's; `from_pretrained(folder or hub id)`
    is strict and checks the fingerprint.
    """

    def __init__(self, config: BundleConfig) -> None:
        super().__init__()
        self.config = config
        self.motion_resampler = PerceiverResampler(config.motion_resampler)
        self.appearance_resampler = PerceiverResampler(config.appearance_resampler)
        self.context = MotionContextTransformer(config.context)
        self.adapter = MotionAdapter(config.adapter)

    def adapt(
        self, motion: Tensor, appearance: Tensor, target_appearance: Tensor, similarity: Tensor | None = None
    ) -> Tensor:
        """Adapt the motion of references to the target image.

        Args:
            motion: Motion tokens of the references [B,K,Q,D], **most similar first**, as retrieval gives them.
            appearance: Appearance tokens of their first frames [B,K,Q,D], in the same order.
            target_appearance: Appearance tokens of the target image [B,Q,D].
            similarity: Of each reference to the prompt [B,K], by which their own motion is weighed where a share of
                it is kept; without it all weigh alike.

        Returns:
            Motion tokens for the target [B,Q,D].

        Raises:
            MotionRAGError: If the shapes do not belong together, or K exceeds the position table.
        """
        blocks = torch.cat([appearance.flip(1), target_appearance[:, None]], dim=1)
        predicted: Tensor = self.context(motion.flip(1), blocks)[:, -1]
        if not self.config.context.kept:
            return predicted
        if similarity is None:
            similarity = motion.new_ones(motion.shape[:2])
        kept = fuse("weighted", motion, similarity).to(predicted.dtype)  # under autocast the two differ
        return torch.lerp(predicted, kept, self.config.context.kept)

    def fingerprint(self) -> str:
        """SHA-256 of all weights and settings, as `save_pretrained` writes it into config.json."""
        return checkpoint.fingerprint(self.state_dict(), asdict(self.config))

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> str | None:
        """Write the bundle into a folder; see huggingface_hub for the options.

        A folder that is there keeps its other files and its model card. Until the new files are complete they
        lie beside it.
        """
        folder = Path(save_directory)
        kwargs.setdefault("repo_id", folder.name)
        with checkpoint.replacing(folder) as temporary:
            if (folder / "README.md").is_file():
                shutil.copy(folder / "README.md", temporary)
            return super().save_pretrained(temporary, **kwargs)

    def _save_pretrained(self, save_directory: Path) -> None:
        checkpoint.save(save_directory, self.state_dict(), asdict(self.config))

    @classmethod
    def from_pretrained(  # type: ignore[override]  # an unknown option is an error here
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> MotionBundle:
        """Load a bundle from a local folder or a hub id.

        Args:
            pretrained_model_name_or_path: A folder that `save_pretrained` wrote, or the id of one on the hub.
            revision: Branch, tag or commit on the hub.
            cache_dir: Where hub files are kept.
            force_download: Fetch them again.
            local_files_only: Fetch nothing.
            token: Access token for the hub.

        Raises:
            MotionRAGError: If it is not there, damaged, changed since it was saved, incomplete or too old.
        """
        where = str(pretrained_model_name_or_path)
        names = (checkpoint.WEIGHTS_NAME, checkpoint.CONFIG_NAME)
        if Path(where).is_dir():
            weights, config = (Path(where) / name for name in names)
        else:
            try:
                weights, config = (
                    Path(
                        hf_hub_download(
                            where,
                            name,
                            revision=revision,
                            cache_dir=cache_dir,
                            force_download=force_download,
                            local_files_only=local_files_only,
                            token=token,
                        )
                    )
                    for name in names
                )
            except (HFValidationError, HfHubHTTPError, OSError) as error:
                raise MotionRAGError(
                    f"no bundle at {where!r}: it is neither a local folder nor a hub id that can be reached "
                    f"({' '.join(str(error).split())})"
                ) from error
        state, document = checkpoint.load(weights, config)
        if "view" not in document:
            raise MotionRAGError(
                f"{config}: does not say what its encoders see of a clip: it is of a version that took another "
                "video for no motion; convert its checkpoints again, or train it again"
            )
        with torch.device("meta"):
            bundle = cls(parse(BundleConfig, document, where=str(config)))
        checkpoint.load_strict(bundle, state, where=str(weights))
        return bundle
