"""The vision foundation models of the literature, as settings over timm."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from gaekit_teachers.positions import resample_dinov2
from gaekit_teachers.timm_models import FromTimm, TimmSettings


class DinoV2Config(TimmSettings):
    """Settings of `dinov2`."""

    size: Literal["small", "base", "large", "giant"] = Field(
        default="large", description="which of the published models"
    )
    registers: bool = Field(default=False, description="the variant with four register tokens (arXiv 2309.16588)")
    positions: Literal["timm", "dinov2"] = Field(
        default="timm",
        description="how learned positions are resampled: by timm (antialiased), or as the authors' code does, "
        "which without registers is bicubic with an offset of 0.1 and not antialiased (GAE's release used that)",
    )


class DinoV2(FromTimm):
    """DINOv2 (arXiv 2304.07193), patches of 14 px: GAE's teacher. A grid of 16 looks at 224 px."""

    name = "dinov2"
    Config = DinoV2Config

    @classmethod
    def model_name(cls, config: DinoV2Config) -> str:
        """vit_<size>_patch14[_reg4]_dinov2."""
        return f"vit_{config.size}_patch14{'_reg4' if config.registers else ''}_dinov2.lvd142m"

    def fit_input(self, model: Any, side: int) -> None:
        """As timm does, or, for `positions: dinov2` without registers, as the authors do."""
        if self.config.positions == "dinov2" and not self.config.registers:
            resample_dinov2(model, self.grid)
        super().fit_input(model, side)


class DinoV3Config(TimmSettings):
    """Settings of `dinov3`."""

    size: Literal["small", "small_plus", "base", "large", "huge_plus", "7b"] = Field(
        default="large", description="which of the published models"
    )
    data: Literal["lvd1689m", "sat493m"] = Field(
        default="lvd1689m", description="web images, or satellite images (large, 7b)"
    )


class DinoV3(FromTimm):
    """DINOv3 (arXiv 2508.10104), patches of 16 px, rotary positions: any grid without resampling."""

    name = "dinov3"
    Config = DinoV3Config

    @classmethod
    def model_name(cls, config: DinoV3Config) -> str:
        """vit_<size>_patch16_dinov3.<data>."""
        return f"vit_{config.size}_patch16_dinov3.{config.data}"


class SiglipConfig(TimmSettings):
    """Settings of `siglip`."""

    size: Literal["base", "large", "so400m"] = Field(default="base", description="which of the published models")


class Siglip(FromTimm):
    """The image tower of SigLIP (arXiv 2303.15343): patches of 16 px, of 14 px for so400m."""

    name = "siglip"
    Config = SiglipConfig

    MODELS = {  # noqa: RUF012 -- a constant table
        "base": "vit_base_patch16_siglip_256.webli",
        "large": "vit_large_patch16_siglip_256.webli",
        "so400m": "vit_so400m_patch14_siglip_224.webli",
    }

    @classmethod
    def model_name(cls, config: SiglipConfig) -> str:
        """From the table of models."""
        return cls.MODELS[config.size]


class Siglip2Config(TimmSettings):
    """Settings of `siglip2`."""

    size: Literal["base", "large", "so400m", "giant"] = Field(
        default="base", description="which of the published models"
    )


class Siglip2(FromTimm):
    """The image tower of SigLIP 2 (arXiv 2502.14786), patches of 16 px."""

    name = "siglip2"
    Config = Siglip2Config

    @classmethod
    def model_name(cls, config: Siglip2Config) -> str:
        """vit_<size>_patch16_siglip_256.v2_webli."""
        size = "giantopt" if config.size == "giant" else config.size
        return f"vit_{size}_patch16_siglip_256.v2_webli"


class MaeConfig(TimmSettings):
    """Settings of `mae`."""

    size: Literal["base", "large", "huge"] = Field(default="large", description="which of the published models")


class Mae(FromTimm):
    """The encoder of a masked autoencoder (arXiv 2111.06377): patches of 16 px, of 14 px for huge."""

    name = "mae"
    Config = MaeConfig

    @classmethod
    def model_name(cls, config: MaeConfig) -> str:
        """vit_<size>_patch<16 or 14>_224.mae."""
        return f"vit_{config.size}_patch{14 if config.size == 'huge' else 16}_224.mae"
