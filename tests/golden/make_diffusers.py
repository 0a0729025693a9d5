"""Make the fixtures of diffusers' autoencoders anew: `python tests/golden/make_diffusers.py [NAME ...]`

It needs diffusers and transformers: 0.42.1 and 5.24.0 made those that are here, but 0.38.0 and 4.57.6 RAE's with a
SigLIP 2, which the newer two cannot build, and with a masked autoencoder, in the names that older files have. Each file
holds an image, what diffusers makes of it with the weights of `tests/drawn_weights.py`, and its settings; two or more
of each class, of unlike sizes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from drawn_weights import drawn, uniform
from safetensors.torch import save_file
from torch import Tensor

HERE = Path(__file__).parent
Outputs = Callable[[Any, Tensor], dict[str, Tensor]]


def flux2(model: Any, image: Tensor) -> dict[str, Tensor]:
    """Standardised means of blocks of 2 x 2 positions, as diffusers' pipelines of FLUX.2 take them, and the image."""
    mean = model.encode(image).latent_dist.mean
    patches = torch.nn.functional.pixel_unshuffle(mean, model.config.patch_size[0])
    return {"latent": model.bn(patches), "reconstruction": model.decode(mean).sample}


def plain(model: Any, image: Tensor) -> dict[str, Tensor]:
    """The latent as it is, and the image."""
    latent = model.encode(image).latent
    return {"latent": latent, "reconstruction": model.decode(latent).sample}


def rae(model: Any, image: Tensor) -> dict[str, Tensor]:
    """The latent of an image in [0, 1], which is how RAE counts; the reconstruction in [-1, 1] again."""
    latent = model.encode(image / 2 + 0.5).latent
    return {"latent": latent, "reconstruction": 2 * model.decode(latent).sample - 1}


CASES: dict[str, tuple[str, int, dict[str, Any], Outputs]] = {
    "diffusers_flux2": (
        "AutoencoderKLFlux2", 24,
        {"block_out_channels": [32, 64], "layers_per_block": 1, "latent_channels": 5, "sample_size": 24,
         "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}, flux2,
    ),
    "diffusers_flux2_small_decoder": (
        "AutoencoderKLFlux2", 32,
        {"block_out_channels": [32, 96, 64], "decoder_block_out_channels": [64, 32, 96], "layers_per_block": 2,
         "latent_channels": 3, "sample_size": 32, "use_quant_conv": False, "use_post_quant_conv": False,
         "batch_norm_eps": 0.02, "batch_norm_momentum": 0.03, "patch_size": [2, 2],
         "down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D", "DownEncoderBlock2D"],
         "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "AttnUpDecoderBlock2D"]}, flux2,
    ),
    # as SANA's: strided convolutions, positions repeated; attention at one scale and, in the decoder, at two
    "diffusers_dc_ae": (
        "AutoencoderDC", 32,
        {"latent_channels": 4, "attention_head_dim": 8,
         "encoder_block_types": ["ResBlock", "ResBlock", "EfficientViTBlock"],
         "decoder_block_types": ["ResBlock", "EfficientViTBlock", "EfficientViTBlock"],
         "encoder_block_out_channels": [12, 16, 32], "decoder_block_out_channels": [10, 20, 40],
         "encoder_layers_per_block": [1, 3, 2], "decoder_layers_per_block": [2, 1, 3],
         "encoder_qkv_multiscales": [[], [], [5]], "decoder_qkv_multiscales": [[], [3, 5], [3, 5]],
         "upsample_block_type": "interpolate", "downsample_block_type": "conv",
         "scaling_factor": 0.41407}, plain,
    ),
    # as those for ImageNet: no block at the first level, batch norms and ReLU further up, strides by channels
    "diffusers_dc_ae_shuffled": (
        "AutoencoderDC", 48,
        {"latent_channels": 5, "attention_head_dim": 4,
         "encoder_block_types": ["ResBlock", "ResBlock", "EfficientViTBlock", "EfficientViTBlock"],
         "decoder_block_types": ["ResBlock", "EfficientViTBlock", "ResBlock", "EfficientViTBlock"],
         "encoder_block_out_channels": [8, 12, 16, 32], "decoder_block_out_channels": [6, 12, 24, 24],
         "encoder_layers_per_block": [0, 2, 1, 3], "decoder_layers_per_block": [0, 1, 2, 2],
         "encoder_qkv_multiscales": [[], [], [], []], "decoder_qkv_multiscales": [[], [], [], []],
         "decoder_norm_types": ["batch_norm", "batch_norm", "batch_norm", "rms_norm"],
         "decoder_act_fns": ["relu", "silu", "relu", "silu"], "decoder_conv_act_fn": "silu",
         "encoder_out_shortcut": False, "decoder_in_shortcut": False}, plain,
    ),
    # statistics of each position; an image that is enlarged for the encoder
    "diffusers_rae_dinov2": (
        "AutoencoderRAE", 12,
        {"encoder_type": "dinov2", "encoder_hidden_size": 128, "encoder_patch_size": 14, "encoder_num_hidden_layers": 2,
         "encoder_input_size": 42, "decoder_hidden_size": 48, "decoder_num_hidden_layers": 3,
         "decoder_num_attention_heads": 4, "decoder_intermediate_size": 72, "patch_size": 4, "noise_tau": 0.8,
         "latents_mean": [[[0.0] * 3] * 3] * 128, "latents_std": [[[1.0] * 3] * 3] * 128}, rae,
    ),
    # of each channel, and a factor
    "diffusers_rae_siglip2": (
        "AutoencoderRAE", 20,
        {"encoder_type": "siglip2", "encoder_hidden_size": 64, "encoder_patch_size": 32, "encoder_num_hidden_layers": 1,
         "encoder_input_size": 128, "decoder_hidden_size": 32, "decoder_num_hidden_layers": 2,
         "decoder_num_attention_heads": 2, "decoder_intermediate_size": 40, "patch_size": 5, "scaling_factor": 0.5,
         "latents_mean": [[[0.0]]] * 64, "latents_std": [[[1.0]]] * 64}, rae,
    ),
    # of all channels alike; an image of the encoder's own size
    "diffusers_rae_mae": (
        "AutoencoderRAE", 48,
        {"encoder_type": "mae", "encoder_hidden_size": 64, "encoder_patch_size": 16, "encoder_num_hidden_layers": 3,
         "encoder_input_size": 48, "decoder_hidden_size": 64, "decoder_num_hidden_layers": 1,
         "decoder_intermediate_size": 100, "patch_size": 16}, rae,
    ),
}  # fmt: skip
"""(class, side of the images, settings, what is computed) of each file."""


def built(cls: str, settings: dict[str, Any]) -> Any:
    """diffusers' autoencoder as it starts."""
    import diffusers

    return getattr(diffusers, cls)(**settings)


def made(cls: str, settings: dict[str, Any]) -> Any:
    """diffusers' autoencoder with drawn weights, in evaluation mode."""
    model = built(cls, settings)
    model.load_state_dict(drawn({name: value.shape for name, value in model.state_dict().items()}), strict=True)
    return model.eval()


def make(name: str) -> None:
    """Write one file."""
    import diffusers

    cls, side, settings, outputs = CASES[name]
    model = made(cls, settings)
    image = uniform("image", 2 * 3 * side * side).reshape(2, 3, side, side)
    with torch.no_grad():
        found = outputs(model, image)
    config = {
        "kind": cls,
        "diffusers": diffusers.__version__,
        "torch": torch.__version__,
        "resolution": side,
        "settings": {"_class_name": cls, **settings},
        "drawn": {key: list(value.shape) for key, value in model.state_dict().items()},
    }
    tensors = {"in.image": image, **{f"out.{key}": value.contiguous() for key, value in found.items()}}
    save_file(tensors, HERE / f"{name}.safetensors", metadata={"config": json.dumps(config)})
    ranges = {key: f"{value.std():.3g}" for key, value in found.items()}
    print(f"{name}: {sum(p.numel() for p in model.parameters())} parameters, deviations {ranges}")


if __name__ == "__main__":
    for chosen in sys.argv[1:] or CASES:
        make(chosen)
