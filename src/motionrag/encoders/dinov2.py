"""DINOv2, the appearance encoder of the paper: `facebook/dinov2-large`, one frame of 224x224 to [257, 1024].

The published processor resizes the shortest edge to 256 (bicubic) and crops the centre 224x224, and so does this
encoder; the authors' code feeds frames it has resized to 224x224 itself, a slightly wider view of the same frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from motionrag.encoders.processor import IMAGENET_MEAN, IMAGENET_STD
from motionrag.encoders.vision import VisionEncoder
from motionrag.errors import MotionRAGError


class Dinov2Encoder(VisionEncoder):
    """DINOv2 features of a clip's first frame, or of an image as a clip of one: class token, registers, patches."""

    kind = "appearance"
    network_class = "Dinov2Model"
    spare_weights = ("embeddings.mask_token",)
    which = "first"
    pooling = "class token"
    processor_defaults: ClassVar[Mapping[str, Any]] = {
        "size": 224,
        "crop_size": 224,
        "resample": 3,
        "image_mean": (0.48145466, 0.4578275, 0.40821073),
        "image_std": (0.26862954, 0.26130258, 0.27577711),
    }

    @staticmethod
    def frames(config: Any) -> int:
        """One."""
        return 1

    @staticmethod
    def published(config: Any) -> Mapping[str, Any]:
        """Shortest edge 256, crop 224, bicubic, ImageNet's mean and deviation."""
        return {
            "size": 256,
            "crop_size": 224,
            "resample": 3,
            "image_mean": IMAGENET_MEAN,
            "image_std": IMAGENET_STD,
        }

    @staticmethod
    def length(config: Any, crop: tuple[int, int]) -> int:
        """L = 1 class token + registers, if it has any + h / patch x w / patch; it takes frames of any size.

        Raises:
            MotionRAGError: If frames are smaller than a patch.
        """
        rows, columns = (edge // config.patch_size for edge in crop)
        if not rows * columns:
            raise MotionRAGError(
                f"the processor crops frames to {crop[0]}x{crop[1]}, less than a patch of {config.patch_size}; "
                "set a larger crop_size"
            )
        return int(1 + getattr(config, "num_register_tokens", 0) + rows * columns)

    def features(self, pixels: Tensor) -> Tensor:
        """Normalised frames [B,1,3,h,w] to the last hidden state [B,L,D], after the final LayerNorm."""
        return self._network(pixels[:, 0]).last_hidden_state

    def summary(self, features: Tensor) -> Tensor:
        """The class token [B,D]."""
        return features[:, 0]


class Dinov2WithRegistersEncoder(Dinov2Encoder):
    """The same with register tokens, such as `facebook/dinov2-with-registers-large`."""

    network_class = "Dinov2WithRegistersModel"
