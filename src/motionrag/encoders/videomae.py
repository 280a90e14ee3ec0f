"""VideoMAE, the motion encoder of the paper: `MCG-NJU/videomae-base-finetuned-ssv2`, 16 frames to [1568, 768].

Classification checkpoints load as their backbone. With `use_mean_pooling` (the fine-tuned ones, the published one
among them) the backbone ends without a LayerNorm: the one in such checkpoints, `fc_norm`, belongs to the head and
follows the mean over tokens. Features are therefore the last block's output as it is, as in the published code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from motionrag.encoders.processor import IMAGENET_MEAN, IMAGENET_STD
from motionrag.encoders.vision import VisionEncoder
from motionrag.errors import MotionRAGError


class VideoMAEEncoder(VisionEncoder):
    """VideoMAE features; frames are picked uniformly over the clip."""

    kind = "motion"
    network_class = "VideoMAEModel"
    which = "uniform"
    pooling = "mean over tokens"
    processor_defaults: ClassVar[Mapping[str, Any]] = {
        "size": 224,
        "crop_size": 224,
        "resample": 2,
        "image_mean": (0.5, 0.5, 0.5),
        "image_std": (0.5, 0.5, 0.5),
    }

    @staticmethod
    def frames(config: Any) -> int:
        """S, 16 in the published models."""
        return int(config.num_frames)

    @staticmethod
    def published(config: Any) -> Mapping[str, Any]:
        """Shortest edge and crop of the network's own size, bilinear, ImageNet's mean and deviation."""
        return {
            "size": config.image_size,
            "crop_size": config.image_size,
            "resample": 2,
            "image_mean": IMAGENET_MEAN,
            "image_std": IMAGENET_STD,
        }

    @staticmethod
    def length(config: Any, crop: tuple[int, int]) -> int:
        """L = S / tubelet x h / patch x w / patch; positions are fixed, so frames must have the network's size.

        Raises:
            MotionRAGError: If they have not.
        """
        return tubelets(config, config.num_frames, config.image_size, crop)

    def features(self, pixels: Tensor) -> Tensor:
        """Normalised frames [B,S,3,h,w] to the last hidden state [B,L,D]."""
        return self._network(pixels).last_hidden_state

    def summary(self, features: Tensor) -> Tensor:
        """The mean over tokens [B,D], which is what the head of the fine-tuned models reads the action from.

        Differences over time would drop more of the appearance, but with it the direction of the movement (their
        size has no sign) or every movement that ends where it began (their sum).
        """
        return features.mean(dim=1)


def tubelets(config: Any, frames: int, size: int, crop: tuple[int, int]) -> int:
    """Number of space-time patches of a network that takes square frames of one size.

    Raises:
        MotionRAGError: If the processor crops to another size.
    """
    if crop != (size, size):
        raise MotionRAGError(
            f"the processor crops frames to {crop[0]}x{crop[1]}, the network takes {size}x{size}: "
            "its configuration files do not belong together; fetch or save them again"
        )
    return int((frames // config.tubelet_size) * (size // config.patch_size) ** 2)
