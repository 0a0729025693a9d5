"""A frozen teacher as encoder: representation autoencoders (RAE, arXiv 2510.11690).

Shape suffixes: B batch, R image side, F teacher width, H W latent grid.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cached_property
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from gaekit.api import ComponentConfig, Encoder, GaekitError, Slot, Teacher
from gaekit.api.nn import FrozenModule


class FrozenTeacherConfig(ComponentConfig):
    """Settings of `frozen_teacher`."""

    teacher: Annotated[ComponentConfig, Slot("teacher")] = Field(
        description="whose features are the latent; image.size / image.stride is its grid"
    )
    resize: Literal["teacher", "plain"] = Field(
        default="teacher",
        description="to the teacher's size: as it does itself, antialiased, or by plain bicubic as RAE's release",
    )
    layer_norm: bool = Field(
        default=False,
        description="LayerNorm without weight and bias over channels: with the teacher's `norm: false`, RAE's features",
    )


class FrozenTeacherEncoder(Encoder):
    """A teacher's features, as they are, for a latent: nothing is trained (RAE, arXiv 2510.11690).

    The teacher is rebuilt from its settings where an artifact is loaded; the artifact holds the identity of its weights
    alone, and is refused for others.
    """

    name = "frozen_teacher"
    Config = FrozenTeacherConfig

    def __init__(
        self,
        config: FrozenTeacherConfig,
        *,
        image_size: int,
        stride: int,
        channels: int,
        teacher: Callable[..., Teacher],
    ):
        super().__init__(config, image_size=image_size, stride=stride, channels=channels)
        if image_size % stride:
            raise GaekitError(f"image.stride: {stride} does not divide image.size = {image_size}")
        self.hidden_dim = channels
        # On the meta device networks are built for their sizes, which are known here without anyone's weights.
        on_meta = torch.get_default_device().type == "meta"
        self.teacher = None if on_meta else FrozenModule(self._checked(teacher(grid=image_size // stride)))

    def _checked(self, teacher: Teacher) -> Teacher:
        if self.config.resize == "plain" and teacher.input_size is None:
            raise GaekitError(
                f"autoencoder.encoder.resize: plain resizes images to the size that the teacher takes, and teacher "
                f"'{teacher.name}' says none; use teacher"
            )
        if teacher.feature_dim != self.channels:
            raise GaekitError(
                f"autoencoder.encoder: teacher '{teacher.name}' gives {teacher.feature_dim} channels and the "
                f"regularizer wants {self.channels}; set `latent_dim: {teacher.feature_dim}` and a "
                "regularizer of one moment a channel, such as standardize"
            )
        return teacher

    def forward(self, image_B3RR: Tensor) -> tuple[Tensor, Tensor]:
        """-> (hidden_BFHW, moments_BFHW), both the teacher's feature, float32."""
        feature_BFHW: Tensor = self._built.network(self._resized(image_B3RR))
        if self.config.layer_norm:
            feature_BFHW = _layer_norm(feature_BFHW)
        return feature_BFHW, feature_BFHW

    def _resized(self, image_B3RR: Tensor) -> Tensor:
        side = self._built.network.input_size if self.config.resize == "plain" else None
        if side is None or image_B3RR.shape[-1] == side:
            return image_B3RR
        # without antialias torch takes OpenCV's kernel (a = -0.75), with it Pillow's (a = -0.5)
        return F.interpolate(image_B3RR.float(), size=(side, side), mode="bicubic", align_corners=False)

    @property
    def last_layer(self) -> nn.Parameter:
        """There is none: raises GaekitError."""
        raise GaekitError(
            "autoencoder.encoder: 'frozen_teacher' trains no layer, so no weight can be adapted to its gradient; "
            "set a constant weight for the alignment, or `aligner: {use: none}`"
        )

    def get_extra_state(self) -> Tensor:
        """sha256 of what identifies the teacher's weights, as 32 bytes: artifacts are tensors. On the meta device,
        which has no teacher, its shape alone."""
        if self.teacher is None:
            return torch.empty(32, dtype=torch.uint8)
        return torch.frombuffer(bytearray(hashlib.sha256(self._identity.encode()).digest()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Compare with what was saved. Raises GaekitError if the teacher has other weights."""
        if not torch.equal(state.cpu(), self.get_extra_state()):
            raise GaekitError(
                "autoencoder.encoder: what is loaded was trained on the features of other teacher weights than "
                f"{self._identity}; give the teacher the weights that it had"
            )

    @property
    def _built(self) -> FrozenModule[Teacher]:
        if self.teacher is None:
            raise GaekitError("autoencoder.encoder: built on the meta device, for its sizes; it has no teacher to ask")
        return self.teacher

    @cached_property
    def _identity(self) -> str:
        """Once: a training asks for the state at every step, and the weights' file may be large."""
        teacher = self._built.network
        return f"{teacher.name}: {type(teacher).external(teacher.config)}"


def _layer_norm(feature_BFHW: Tensor) -> Tensor:
    """Each position's mean 0 and variance 1 over channels, eps 1e-6 as in DINOv2."""
    with torch.autocast(device_type=feature_BFHW.device.type, enabled=False):
        last = feature_BFHW.float().movedim(1, -1)
        return F.layer_norm(last, last.shape[-1:], eps=1e-6).movedim(-1, 1)
