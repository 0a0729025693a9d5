"""Make the fixtures of diffusers' autoencoders anew: `python tests/golden/make_diffusers.py [NAME ...]`

It needs diffusers and transformers (0.42.1 and 5 made those that are here). Each file holds an image, what diffusers
makes of it with the weights of `tests/drawn_weights.py`, and its settings; two or more of each class, of unlike sizes.
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
}  # fmt: skip
"""(class, side of the images, settings, what is computed) of each file."""


def made(cls: str, settings: dict[str, Any]) -> Any:
    """diffusers' autoencoder with drawn weights, in evaluation mode."""
    import diffusers

    model = getattr(diffusers, cls)(**settings)
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
