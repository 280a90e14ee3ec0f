"""V-JEPA 2 as a motion encoder, such as `facebook/vjepa2-vitl-fpc64-256`: the encoder's features, no predictor.

Its processor (`VJEPA2VideoProcessor`, torchvision only) resizes the shortest edge to `int(crop * 256 / 224)`,
whatever its file says of `size`, bilinear with antialiasing, and crops the centre. `Preparation` does so by Pillow,
which differs from torchvision by rounding: 1 of 255 in some pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from motionrag.encoders.processor import IMAGENET_MEAN, IMAGENET_STD, crop_size
from motionrag.encoders.videomae import tubelets
from motionrag.encoders.vision import VisionEncoder


class VJEPA2Encoder(VisionEncoder):
    """V-JEPA 2 features; frames are picked uniformly over the clip, as many as `frames_per_clip` says."""

    kind = "motion"
    network_class = "VJEPA2Model"
    spare_weights = ("predictor.",)
    which = "uniform"
    pooling = "mean over tokens"
    processor_defaults: ClassVar[Mapping[str, Any]] = {
        "crop_size": 256,
        "resample": 2,
        "image_mean": IMAGENET_MEAN,
        "image_std": IMAGENET_STD,
    }

    @staticmethod
    def frames(config: Any) -> int:
        """S, 64 in the pretrained models, 16 or 32 in fine-tuned ones."""
        return int(config.frames_per_clip)

    @classmethod
    def published(cls, config: Any) -> Mapping[str, Any]:
        """The processor's defaults, at the network's own size."""
        return cls.settle({"crop_size": config.crop_size}, where="")

    @classmethod
    def settle(cls, settings: Mapping[str, Any], where: str) -> Mapping[str, Any]:
        """The size follows from the crop."""
        settled = super().settle(settings, where)
        return {**settled, "size": int(crop_size(settled["crop_size"], where)[0] * 256 / 224)}

    @staticmethod
    def length(config: Any, crop: tuple[int, int]) -> int:
        """L = S / tubelet x h / patch x w / patch; rotary positions count patches of the network's size.

        Raises:
            MotionRAGError: If frames have another size.
        """
        return tubelets(config, config.frames_per_clip, config.crop_size, crop)

    @staticmethod
    def part(network: Any) -> nn.Module:
        """The encoder; the predictor is dropped."""
        return network.encoder

    def features(self, pixels: Tensor) -> Tensor:
        """Normalised frames [B,S,3,h,w] to the encoder's last hidden state [B,L,D], after its LayerNorm."""
        return self._network(pixel_values_videos=pixels).last_hidden_state

    def summary(self, features: Tensor) -> Tensor:
        """The mean over tokens [B,D]."""
        return features.mean(dim=1)
