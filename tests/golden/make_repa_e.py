"""Make the fixtures of REPA-E's autoencoders anew: `python tests/golden/make_repa_e.py CHECKOUT [NAME ...]`

CHECKOUT is a copy of the repository End2End-Diffusion/REPA-E, whose code is run and stays there; it needs `dictdot`.
Each file holds an image and what REPA-E's encoder makes of it, standardised as its `generate.py` undoes it, with the
weights and statistics of `tests/drawn_weights.py`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from drawn_weights import drawn, uniform
from safetensors.torch import save_file

HERE = Path(__file__).parent
CASES: dict[str, tuple[int, int, list[int]]] = {
    "repa_e_vae": (12, 5, [1, 2]),
    "repa_e_vae_attention": (32, 3, [1, 1, 2, 1, 1]),
}
"""(side of the images, channels of the latent, multipliers) of each file; five levels have attention, as VA-VAE's."""


def make(name: str, models: Any) -> None:
    """Write one file."""
    side, width, multipliers = CASES[name]
    model = models.AutoencoderKL(embed_dim=width, ch_mult=multipliers).eval()
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    model.load_state_dict(drawn(shapes))
    bias = uniform("latents_bias", width).reshape(1, width, 1, 1)
    scale = (1.5 + uniform("latents_scale", width)).reshape(1, width, 1, 1)
    image = uniform("image", 2 * 3 * side * side).reshape(2, 3, side, side)
    with torch.no_grad():
        mean = model.encode(image).mean
        found = {"latent": (mean - bias) * scale, "reconstruction": model.decode(mean).sample}
    config = {"kind": "repa_e_vae", "torch": torch.__version__, "resolution": side, "embed_dim": width,
              "ch_mult": multipliers, "drawn": shapes}  # fmt: skip
    given = {"in.image": image, "in.latents_bias": bias, "in.latents_scale": scale}
    tensors = {**given, **{f"out.{key}": value.contiguous() for key, value in found.items()}}
    save_file(tensors, HERE / f"{name}.safetensors", metadata={"config": json.dumps(config)})
    print(name, {key: f"{value.std():.3g}" for key, value in found.items()})


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    from models import autoencoder  # type: ignore[import-not-found]

    for chosen in sys.argv[2:] or CASES:
        make(chosen, autoencoder)
