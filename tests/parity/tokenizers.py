"""Autoencoders: GAE's tokenizer and latent diffusion's; GAE's semantic teacher."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from parity.fixture import Fixture, Recompute, UnknownOutput
from parity.rebuild import autoencoder, diffusers_autoencoder, imported, registry
from torch import Tensor

from gaekit.api import Aligner
from gaekit.interop.formats import Options
from gaekit.plugins import build
from gaekit.recipe.load import load_component
from gaekit.store.artifact import open_artifact
from gaekit.store.models import Autoencoder, load_aligner


def prepare_gae(fixture: Fixture) -> Recompute:
    config = fixture.config
    if not config.get("latent_norm", "rms").startswith("rms, eps 1e-6"):
        raise UnknownOutput(f"GAE's latent is RMS-normalised; config.latent_norm is: {config['latent_norm']}")
    decoder_heads = config.get("decoder_num_heads", config["num_heads"])
    model = autoencoder("gae", fixture, Options(heads=config["num_heads"], decoder_heads=decoder_heads))

    def recompute(name: str) -> Tensor:
        (image,) = fixture.given("image")
        with torch.no_grad():
            hidden, latent = model.encode(image)
            if name == "features":
                return hidden
            if name == "latent":
                return latent.mean_BDHW
            if name == "reconstruction":
                return model.reconstruct(image)
        raise UnknownOutput("no such output of a GAE tokenizer is known")

    return recompute


def prepare_ldm_vae(fixture: Fixture) -> Recompute:
    model = autoencoder("ldm-vae", fixture, Options(image_size=fixture.config["resolution"]))

    def recompute(name: str) -> Tensor:
        (image,) = fixture.given("image")
        with torch.no_grad():
            if name == "reconstruction":
                return model.reconstruct(image)
            if name == "kl_per_image":  # the regularizer's own term, an image at a time
                weight_1 = [model.encode(one)[1].penalty for one in image[:, None]]
                return torch.stack([penalty.value for penalty in weight_1 if penalty is not None])
            latent = model.encode(image)[1]
            if name == "mean":
                return latent.mean_BDHW
            if name == "logvar":
                return 2 * torch.as_tensor(latent.std_BDHW).log()
        raise UnknownOutput("no such output of an autoencoder of latent diffusion is known")

    return recompute


def prepare_diffusers(name: str, fixture: Fixture) -> Recompute:
    """An autoencoder of diffusers' that is a format by itself: its latent and its reconstruction."""
    side = None if name == "rae" else fixture.config["resolution"]
    model = diffusers_autoencoder(name, fixture, Options(image_size=side))
    return _through(model, fixture)


def prepare_repa_e(fixture: Fixture) -> Recompute:
    """REPA-E's autoencoder with its statistics in a file beside it."""
    return _through(autoencoder("e2e-vae", fixture, Options(image_size=fixture.config["resolution"])), fixture)


def _through(model: Autoencoder, fixture: Fixture) -> Recompute:
    """The latent and the reconstruction of an image."""

    def recompute(output: str) -> Tensor:
        (image,) = fixture.given("image")
        with torch.no_grad():
            latent = model.encode(image)[1].mean_BDHW
            if output == "latent":
                return latent
            if output == "reconstruction":
                return model.decode(latent)
        raise UnknownOutput("no such output of an autoencoder is known")

    return recompute


def prepare_semantic(fixture: Fixture) -> Recompute:
    aligner = _aligner(fixture)

    def recompute(name: str) -> Tensor:
        (features,) = fixture.given("features")
        with torch.no_grad():
            if name == "latent_target":
                return aligner.target(features)
            if name == "loss":
                return aligner.fit_losses(features)["feature"].value
            pair: tuple[Tensor, Tensor] = aligner.get_submodule("semantic")(features)
        if name in ("reconstructed_features", "normalized_features"):
            return pair[0] if name.startswith("re") else pair[1]
        raise UnknownOutput("no such output of a semantic teacher is known")

    return recompute


def _aligner(fixture: Fixture) -> Aligner:
    config = fixture.config
    with tempfile.TemporaryDirectory() as folder:
        heads = config["feature_dim"] // config["head_dim"]
        artifact = imported("gae-semantic", fixture, Path(folder), Options(heads=heads))
        facts = open_artifact(artifact, "aligner").config
        settings = load_component("aligner", facts["aligner"], registry(), source=str(fixture.path))
        sizes = {name: facts[name] for name in ("feature_dim", "latent_dim", "grid")}
        aligner = build(Aligner, settings, registry(), hidden_dim=1, **sizes)
        load_aligner(artifact, aligner)
        return aligner
