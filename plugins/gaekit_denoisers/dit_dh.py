"""DiT-DH: a deep encoder of the condition under a wide, shallow velocity decoder (DDT, arXiv 2504.05741; as in RAE,
arXiv 2510.11690).

The encoder reads the noisy latent, the time and the label; what it makes of each token is the decoder's condition
there. Width is needed where the latent has many channels, depth is not: hence the two widths.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from gaekit.api import Prediction
from gaekit.api.nn import FinalLayer, FourierEmbedder, LabelEmbedder, PatchEmbed, unpatchify
from gaekit_denoisers.lightning_dit import LightningDiTConfig, lightning_blueprint, lightning_mlp
from gaekit_denoisers.transformer import BlockDenoiser, Blueprint


class DiTDHConfig(LightningDiTConfig):
    """Settings of DiT-DH; the defaults are those of RAE's DiT-DH. `depth`, `width` and `heads` are the encoder's."""

    size: Literal["S", "B", "L", "XL"] = Field(
        default="B",
        description="depth, width and heads of the encoder: S 12, 384, 6; B 12, 768, 12; L 24, 1024, 16; "
        "XL 28, 1152, 16",
    )
    decoder_depth: PositiveInt = Field(default=2, description="transformer blocks of the velocity decoder, the head")
    decoder_width: PositiveInt = Field(default=2048, description="channels of its tokens")
    decoder_heads: PositiveInt = Field(default=16, description="its attention heads, must divide decoder_width")
    convention: Literal["data_at_one", "noise_at_one"] = Field(
        default="data_at_one",
        description="the time that the weights speak: t = 1 is data, as everywhere in gaekit, or noise, as in RAE's "
        "checkpoints; outside the network t = 1 is data either way",
    )


class DiTDH(BlockDenoiser):
    """Diffusion transformer with a wide shallow head (RAE's DiT-DH) that predicts the velocity.

    Under `noise_at_one` the weights are those of a network in RAE's convention, v = noise - data at t = 1 for noise:
    it is asked at 1 - t, and its answer negated.
    """

    name = "dit_dh"
    former_names = ("ddt",)
    revision = 2  # the time embedding's biases start as published
    Config = DiTDHConfig

    def __init__(self, config: DiTDHConfig, *, channels: int, grid: int, classes: int):
        super().__init__(config, patch=config.patch, channels=channels, grid=grid, classes=classes)
        encoder, decoder = _blueprints(config, channels)
        self.encoder_depth = encoder.depth
        self.t_embedder = FourierEmbedder(encoder.width)
        self.y_embedder = LabelEmbedder(classes, encoder.width)
        self.s_embedder = PatchEmbed(channels, encoder.width, self.patch)
        self.x_embedder = PatchEmbed(channels, decoder.width, self.patch)
        same = encoder.width == decoder.width
        self.s_projector = nn.Identity() if same else nn.Linear(encoder.width, decoder.width)
        self.pos_embed = self._fixed_positions(encoder)
        self.enc_feat_rope, self.dec_feat_rope = self._rope(encoder), self._rope(decoder)
        self.blocks = nn.ModuleList(self._stack(encoder) + self._stack(decoder))
        self.final_layer = FinalLayer(decoder.width, self.patch**2 * channels, norm=decoder.norm)
        self._reset_parts()  # the other linear layers keep torch's own start, as in RAE

    def forward(self, x_BDHW: Tensor, t_B: Tensor, label_B: Tensor, *, taps: tuple[str, ...] = ()) -> Prediction:
        """The velocity at time t, float32; `taps` ("block.3") name blocks whose output (B, N, W) is returned too.

        The encoder's blocks come first, then the decoder's. Raises GaekitError for a tap that names no block.
        """
        self._check_taps(taps)
        features: dict[str, Tensor] = {}
        flipped = self.config.convention == "noise_at_one"
        time_BW = self.t_embedder(1 - t_B if flipped else t_B)
        condition_BNW = self._encode(x_BDHW, time_BW, label_B, taps, features)
        indices = range(self.encoder_depth, len(self.blocks))
        x_BNW = self._walk(indices, self.x_embedder(x_BDHW), condition_BNW, self.dec_feat_rope, taps, features)
        out = unpatchify(self.final_layer(x_BNW, condition_BNW), patch=self.patch, grid=self.side).float()
        return Prediction(-out if flipped else out, features=features)

    def _encode(
        self, x_BDHW: Tensor, time_BW: Tensor, label_B: Tensor, taps: tuple[str, ...], features: dict[str, Tensor]
    ) -> Tensor:
        """The decoder's condition, one for each token, of its width."""
        state_BNW = self.s_embedder(x_BDHW)
        if self.pos_embed is not None:
            state_BNW = state_BNW + self.pos_embed
        condition_BW = F.silu(time_BW + self.y_embedder(label_B))
        indices = range(self.encoder_depth)
        state_BNW = self._walk(indices, state_BNW, condition_BW, self.enc_feat_rope, taps, features)
        return self.s_projector(F.silu(time_BW[:, None] + state_BNW))  # type: ignore[no-any-return]


def _blueprints(config: DiTDHConfig, channels: int) -> tuple[Blueprint, Blueprint]:
    """(encoder, decoder): the same blocks, of different sizes."""
    encoder = lightning_blueprint(config, channels)
    decoder = replace(
        encoder,
        depth=config.decoder_depth,
        width=config.decoder_width,
        heads=config.decoder_heads,
        mlp=lightning_mlp(config, config.decoder_width),
    )
    return encoder, decoder
