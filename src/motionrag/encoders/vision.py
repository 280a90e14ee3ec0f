"""What motion and appearance encoders share: frames checked, normalised on the device, features in float32."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from motionrag.encoders.protocols import EncoderInfo, Kind
from motionrag.errors import MotionRAGError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from motionrag.video import Preparation


GREY = 0.5
"""Of RGB in [0, 1]: what a video without motion shows."""


class VisionEncoder(ABC):
    """A transformers backbone as a `VideoEncoder`; a new one is a subclass and a line in `loading`."""

    kind: ClassVar[Kind]
    """What it encodes."""
    network_class: ClassVar[str]
    """Name of its class in transformers: the backbone, without a head."""
    spare_weights: ClassVar[tuple[str, ...]] = ()
    """Parts of the names of parameters that no feature depends on, so that a checkpoint may lack them."""
    which: ClassVar[Literal["uniform", "first"]]
    """Which frames of a clip it takes."""
    pooling: ClassVar[str]
    """What `pool` does, in words; part of the fingerprint."""
    processor_defaults: ClassVar[Mapping[str, Any]]
    """What the transformers processor takes for settings that its file leaves out."""

    def __init__(self, network: nn.Module, preparation: Preparation, info: EncoderInfo, batch_size: int) -> None:
        self.info = info
        self.preparation = preparation
        self._network = network
        self._batch_size = batch_size
        parameter = next(network.parameters())
        self._device, self._dtype = parameter.device, parameter.dtype
        self._mean = torch.tensor(preparation.mean, device=self._device).view(3, 1, 1)
        self._std = torch.tensor(preparation.std, device=self._device).view(3, 1, 1)

    def to(self, device: torch.device | str) -> None:
        """Move it to another device."""
        self._network.to(device)
        self._device = torch.device(device)
        self._mean, self._std = self._mean.to(device), self._std.to(device)

    @staticmethod
    @abstractmethod
    def frames(config: Any) -> int:
        """S, the frames of a clip that it takes."""

    @staticmethod
    @abstractmethod
    def published(config: Any) -> Mapping[str, Any]:
        """Processor settings of the published models, for one that comes without a processor file."""

    @staticmethod
    @abstractmethod
    def length(config: Any, crop: tuple[int, int]) -> int:
        """L, the tokens of a clip, from the height and width of its frames.

        Raises:
            MotionRAGError: If the network does not take frames of that size.
        """

    @classmethod
    def settle(cls, settings: Mapping[str, Any], where: str) -> Mapping[str, Any]:
        """Settings of a processor file, completed as the transformers processor completes them."""
        return {**cls.processor_defaults, **{key: value for key, value in settings.items() if value is not None}}

    @staticmethod
    def part(network: Any) -> nn.Module:
        """The part of the network that features depend on."""
        return network

    @abstractmethod
    def features(self, pixels: Tensor) -> Tensor:
        """Normalised frames [B,S,3,h,w] to features [B,L,D], both in the network's dtype."""

    @abstractmethod
    def summary(self, features: Tensor) -> Tensor:
        """Features f32 [B,L,D] to vectors [B,D] of any length."""

    def encode(self, batch: Tensor | NDArray[np.uint8]) -> Tensor:
        """Prepared frames u8 [B,S,3,h,w], range [0, 255], to features f32 [B,L,D] on the encoder's device.

        Raises:
            MotionRAGError: If the frames are not what `preparation` makes.
        """
        frames = self._checked(batch)
        with torch.inference_mode():
            parts = [self.features(self._pixels(part)).float() for part in frames.split(self._batch_size)]
        return torch.cat(parts)  # outside: a plain tensor, which training may use

    def no_motion(self) -> Tensor:
        """Features f32 [1,L,D] of a video without motion: mid-grey, 0 in [-1, 1], then normalised as any frame.

        Guidance sets the motion against it, and training puts it where motion is dropped.
        """
        shape = (1, self.preparation.frames, 3, *self.preparation.crop)
        grey = ((GREY - self._mean) / self._std).to(self._dtype).expand(shape)
        with torch.inference_mode():
            features = self.features(grey).float()
        return features.clone()  # a plain tensor, which training may use

    def pool(self, features: Tensor) -> Tensor:
        """Features [B,L,D] to vectors f32 [B,D] of length 1, for similarity search.

        Raises:
            MotionRAGError: If the features are not what `encode` makes.
        """
        wanted = (self.info.length, self.info.dimension)
        if features.ndim != 3 or features.shape[1:] != wanted:
            raise MotionRAGError(
                f"features are {tuple(features.shape)}, {self.info.model} makes [B,{wanted[0]},{wanted[1]}]"
            )
        return F.normalize(self.summary(features.float()), dim=-1)

    def _checked(self, batch: Tensor | NDArray[np.uint8]) -> Tensor:
        """Frames as a tensor of the right shape and dtype."""
        if isinstance(batch, np.ndarray):
            batch = torch.from_numpy(np.array(batch))  # a copy: the array may be read-only
        wanted = (self.preparation.frames, 3, *self.preparation.crop)
        if batch.dtype != torch.uint8 or batch.ndim != 5 or batch.shape[1:] != wanted or not len(batch):
            raise MotionRAGError(
                f"{self.info.model}: frames are {batch.dtype} {tuple(batch.shape)}, wanted are uint8 "
                f"[B,{','.join(map(str, wanted))}]; make them with the encoder's `preparation`"
            )
        return batch

    def _pixels(self, frames: Tensor) -> Tensor:
        """u8 [B,S,3,h,w] to normalised pixels on the device, computed in float32."""
        pixels = frames.to(self._device).float() / 255
        return ((pixels - self._mean) / self._std).to(self._dtype)
