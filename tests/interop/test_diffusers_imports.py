"""Autoencoders of diffusers that are formats by themselves compute here what they compute there.

The golden files were made by `tests/golden/make_diffusers.py`, two or more of each class and of unlike sizes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from import_helpers import registry, same
from parity.fixture import Fixture, read_fixture
from parity.rebuild import diffusers_folder
from parity_helpers import GOLDEN, Tensors, close
from safetensors.torch import save_file

from gaekit.cli import main
from gaekit.errors import ArtifactError
from gaekit.interop.diffusers_folder import CONFIG, NOT_TOLD, WEIGHTS, licence_beside
from gaekit.interop.diffusers_vae import to_published
from gaekit.interop.formats import FORMATS, Options
from gaekit.interop.importing import Imported, import_file
from gaekit.store.artifact import open_artifact
from gaekit.store.models import Autoencoder, load_autoencoder

FLUX2 = ("diffusers_flux2", "diffusers_flux2_small_decoder")
FORMAT = {found.diffusers: found.name for found in FORMATS.values() if found.diffusers}
DC_AE = ("diffusers_dc_ae", "diffusers_dc_ae_shuffled")
RAE = ("diffusers_rae_dinov2", "diffusers_rae_siglip2", "diffusers_rae_mae")
ALL = (*FLUX2, *DC_AE, *RAE)
SAID = {"flux2-vae", "dc-ae"}
"""Formats that are told the side of the images."""


@cache
def fixture(name: str) -> Fixture:
    return read_fixture(GOLDEN / f"{name}.safetensors")


def format_of(name: str) -> str:
    return FORMAT[fixture(name).kind]


def folder_of(name: str, path: Path, *, state: Tensors | None = None, **settings: Any) -> Path:
    """A golden file as the folder that diffusers would have written; `settings` change its config.json."""
    folder = diffusers_folder(fixture(name), path)
    if state is not None:
        save_file(state, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps({**fixture(name).config["settings"], **settings}))
    return folder


def take(name: str, file: Path, out: Path, **options: Any) -> Imported:
    said = {"image_size": fixture(name).config["resolution"]} if format_of(name) in SAID else {}
    return import_file(format_of(name), file, out, Options(**{**said, **options}), registry())


def model_of(imported: Imported) -> Autoencoder:
    return load_autoencoder(imported.artifact, registry())


def reproduces(model: Autoencoder, name: str) -> None:
    found = fixture(name)
    with torch.no_grad():
        latent = model.encode(found.inputs["image"])[1].mean_BDHW
        close(latent, found.outputs["latent"])
        close(model.decode(latent), found.outputs["reconstruction"])


@pytest.mark.parametrize("name", [FLUX2[0], DC_AE[1], RAE[1]])  # all of them: tests/parity/test_check.py
def test_a_folder_of_diffusers_computes_what_diffusers_does(name: str, tmp_path: Path) -> None:
    folder = folder_of(name, tmp_path / "theirs")
    said = ["--image-size", str(fixture(name).config["resolution"])] if format_of(name) in SAID else []
    assert main(["import", format_of(name), str(folder), "--out", str(tmp_path / "taken"), *said]) == 0
    reproduces(load_autoencoder(tmp_path / "taken" / "autoencoder.safetensors", registry()), name)


@pytest.mark.parametrize("name", ALL)
def test_diffusers_computes_the_golden_numbers_still(name: str) -> None:
    pytest.importorskip("diffusers", reason="the library that made the golden files is not installed")
    from golden.make_diffusers import CASES, built, made

    cls, side, settings, outputs = CASES[name]
    try:
        if built(cls, settings).state_dict().keys() != fixture(name).state.keys():
            pytest.skip(
                "the installed transformers calls an encoder's parts otherwise, so they would be drawn otherwise"
            )
    except AttributeError as error:
        pytest.skip(f"the installed diffusers cannot build it with the installed transformers: {error}")
    found = fixture(name)
    assert (cls, side, {"_class_name": cls, **settings}) == (
        found.kind, found.config["resolution"], found.config["settings"],
    )  # fmt: skip
    with torch.no_grad():
        computed = outputs(made(cls, settings), found.inputs["image"])
    assert computed.keys() == found.outputs.keys()
    for key, value in found.outputs.items():
        close(computed[key], value, 2e-6)


def test_flux2_statistics_become_the_regularizer_s_and_the_decoder_undoes_them(tmp_path: Path) -> None:
    name = "diffusers_flux2_small_decoder"
    model = model_of(take(name, folder_of(name, tmp_path / "theirs"), tmp_path / "taken"))
    settings = model.spec.regularizer.model_dump()
    assert {key: settings[key] for key in ("use", "statistics", "eps", "momentum")} == {
        "use": "standardize", "statistics": "channel", "eps": 0.02, "momentum": 0.03,
    }  # fmt: skip
    state = fixture(name).state
    assert torch.equal(model.regularizer.get_buffer("mean").flatten(), state["bn.running_mean"])
    assert (model.spec.stride, model.spec.latent_dim) == (8, 12)
    raw = 2 * torch.randn(2, 12, 4, 4, generator=torch.Generator().manual_seed(0))
    close(model.decoder.get_submodule("restore")(model.regularizer(raw).mean_BDHW), raw, 1e-6)
    # torch mixes a batch in by the momentum from the first; 34 batches seen are as many as let ours do so
    assert model.regularizer.get_buffer("batches").item() == 34
    model.regularizer.train()(raw)
    moved = 0.97 * state["bn.running_mean"] + 0.03 * raw.mean((0, 2, 3))
    close(model.regularizer.get_buffer("mean").flatten(), moved, 1e-6)


def in_the_names_of_its_authors(state: Tensors) -> Tensors:
    """FLUX.2's own file: latent diffusion's names and 1 x 1 convolutions, of which the last are within the halves."""
    renamed = {}
    for key, value in to_published(state).items():
        inside = {"quant_conv": "encoder.", "post_quant_conv": "decoder."}.get(key.partition(".")[0], "")
        renamed[inside + key] = value[:, :, None, None] if value.ndim == 2 else value
    return renamed


def test_flux2_is_read_in_its_authors_names(tmp_path: Path) -> None:
    state = in_the_names_of_its_authors(fixture("diffusers_flux2").state)
    assert {"encoder.quant_conv.weight", "decoder.mid.attn_1.q.weight", "bn.running_var"} <= set(state)
    save_file(state, tmp_path / "ae.safetensors", metadata={"license": "apache-2.0"})
    imported = take("diffusers_flux2", tmp_path / "ae.safetensors", tmp_path / "taken")
    reproduces(model_of(imported), "diffusers_flux2")
    assert imported.lines[-1] == "licence: apache-2.0"


def test_the_licence_is_what_metadata_settings_or_card_say(tmp_path: Path) -> None:
    def told(**settings: Any) -> str:
        folder = folder_of("diffusers_dc_ae", tmp_path / "theirs", **settings)
        imported = take("diffusers_dc_ae", folder, tmp_path / "taken")
        facts = open_artifact(imported.artifact, "autoencoder").config["imported"]
        imported.artifact.unlink()
        assert imported.lines[-1] == f"licence: {facts['licence']}"
        return str(facts["licence"])

    assert told() == "not told"
    card = tmp_path / "theirs" / "README.md"
    card.write_text("# A model\nlicense: mit\n")
    assert told() == "not told"  # a sentence, no front matter
    card.write_text('---\ntags: [vae]\nlicense: "mit"\n---\n# A model\nlicense: gpl\n')
    assert told() == "mit"
    card.write_text("---\nlicense: other\nlicense_name: flux-dev\n---\n")
    assert told() == "other, flux-dev"
    assert told(license="apache-2.0") == "apache-2.0"


def test_a_card_that_is_made_to_be_read_for_ever_is_read_at_once(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text("{}")
    card, file = tmp_path / "README.md", tmp_path / WEIGHTS
    for text in ("---" + "\n" * 10**6, "---\nlicense:" + " " * 10**6 + "!\n---\n", "---\nlicense: x" + "y " * 10**6):
        card.write_text(text)
        begun = time.process_time()
        assert licence_beside(file, {}) == NOT_TOLD
        assert time.process_time() - begun < 2


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("diffusers_dc_ae", {"encoder_layers_per_block": [10**9, 10**9]}),
        ("diffusers_dc_ae", {"encoder_block_out_channels": 5}),
        ("diffusers_dc_ae", {"encoder_block_out_channels": [10**400, 1]}),
        ("diffusers_dc_ae", {"encoder_qkv_multiscales": []}),
        ("diffusers_dc_ae", {"encoder_block_types": [["ResBlock"], {}]}),
        ("diffusers_dc_ae", {"latent_channels": "32"}),
        ("diffusers_dc_ae", {"attention_head_dim": 0}),
        ("diffusers_rae_mae", {"encoder_input_size": "wide"}),
        ("diffusers_rae_mae", {"encoder_input_size": 10**9}),
        ("diffusers_rae_mae", {"encoder_type": []}),
        ("diffusers_rae_mae", {"noise_tau": "x"}),
        ("diffusers_rae_mae", {"scaling_factor": 0}),
        ("diffusers_flux2", {"batch_norm_momentum": 0}),
        ("diffusers_flux2", {"batch_norm_eps": "small"}),
        ("diffusers_flux2", {"batch_norm_eps": None}),
    ],
)
def test_settings_that_are_none_end_soon_and_with_a_message(
    tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    folder = folder_of(name, tmp_path / "theirs", **settings)
    begun = time.process_time()
    with pytest.raises(ArtifactError, match=str(folder / WEIGHTS)):
        take(name, folder, tmp_path / "taken")
    assert time.process_time() - begun < 10
    assert not list(tmp_path.glob("taken/*"))


@pytest.mark.parametrize("number", ["1000000000000", "\u00b2", "9" * 5000])
def test_a_block_of_a_number_beyond_all_ends_soon(tmp_path: Path, number: str) -> None:
    folder = folder_of("diffusers_rae_mae", tmp_path / "theirs")
    state = {**fixture("diffusers_rae_mae").state, f"decoder.decoder_layers.{number}.output.dense.bias": torch.ones(3)}
    save_file(state, folder / WEIGHTS)
    with pytest.raises(ArtifactError, match=str(folder / WEIGHTS)):
        take("diffusers_rae_mae", folder, tmp_path / "taken")


Change = Callable[[Tensors], Tensors]


def with_norm(mean: int, variance: int) -> Change:
    """The state with a batch norm of other channels."""
    return lambda state: {**state, "bn.running_mean": torch.ones(mean), "bn.running_var": torch.ones(variance)}


def without(*names: str) -> Change:
    return lambda state: {key: value for key, value in state.items() if not key.startswith(names)}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("diffusers_flux2", without("bn."), "bn.running_mean should be there"),
        ("diffusers_flux2", without("decoder.mid_block.resnets.1"), "8 missing: decoder.mid_block.resnets.1.conv1"),
        ("diffusers_flux2", with_norm(15, 15), "no square"),
        ("diffusers_flux2", lambda state: {**state, "bn.running_var": -state["bn.running_var"]}, "not below 0"),
        ("diffusers_flux2", with_norm(21, 21), "no blocks of positions"),
        ("diffusers_dc_ae", without("decoder.up_blocks.1.1.attn.to_k"), "1 missing: decoder.up_blocks.1.1.attn.to_qkv"),
        ("diffusers_dc_ae", without("encoder.down_blocks.0.1"), "2 missing: encoder.down_blocks.0.1.conv.bias"),
        ("diffusers_flux2", with_norm(20, 5), "has a mean of shape (20,) and a variance of (5,)"),
    ],
)
def test_what_does_not_fit_is_named(name: str, change: Change, message: str, tmp_path: Path) -> None:
    file = folder_of(name, tmp_path / "theirs", state=change(fixture(name).state)) / WEIGHTS
    with pytest.raises(ArtifactError) as raised:
        take(name, file, tmp_path / "taken")
    assert message in str(raised.value)
    assert str(raised.value).startswith(str(file))
    assert not (tmp_path / "taken").exists()


def test_another_class_or_network_is_refused_by_its_settings(tmp_path: Path) -> None:
    others: dict[str, Any] = {"_class_name": "AutoencoderKL", "norm_num_groups": 16, "act_fn": "relu"}
    for key, value in others.items():
        folder = folder_of("diffusers_flux2", tmp_path / key, **{key: value})
        with pytest.raises(ArtifactError, match=rf"config\.json: {key} is {value}; gaekit's network is for"):
            take("diffusers_flux2", folder, tmp_path / "taken")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"_class_name": "AutoencoderKL"}, "_class_name is AutoencoderKL; gaekit's network is for AutoencoderDC"),
        ({"in_channels": 4}, "no place for in_channels 4: its images have 3"),
        ({"decoder_act_fns": "gelu"}, "decoder_act_fns gelu: it has silu and relu"),
        ({"decoder_norm_types": "layer_norm"}, "decoder_norm_types layer_norm: it has rms_norm and batch_norm"),
        ({"decoder_conv_act_fn": "gelu"}, "decoder_conv_act_fn gelu"),
        ({"encoder_block_types": ["ResBlock", "Other", "ResBlock"]}, "encoder_block_types Other"),
        ({"decoder_qkv_multiscales": [[], [3], [5]]}, "decoder_qkv_multiscales that differ between levels"),
        ({"latent_channels": 5}, "32 channels cannot be averaged to 5 of the latent"),
        ({"attention_head_dim": 16}, "of another shape"),
    ],
)
def test_settings_that_gaekit_s_dc_ae_has_not_are_refused(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = folder_of("diffusers_dc_ae", tmp_path / "theirs", **settings)
    with pytest.raises(ArtifactError, match=message):
        take("diffusers_dc_ae", folder, tmp_path / "taken")
    assert not (tmp_path / "taken").exists()


def test_a_dc_ae_needs_its_settings_and_keeps_its_factor(tmp_path: Path) -> None:
    folder = folder_of("diffusers_dc_ae", tmp_path / "theirs")
    imported = take("diffusers_dc_ae", folder, tmp_path / "taken")
    assert "diffusers standardises its latents by scaling_factor 0.41407" in imported.lines
    facts = open_artifact(imported.artifact, "autoencoder").config["imported"]
    assert facts["diffusers"] == {"scaling_factor": 0.41407}
    (folder / CONFIG).unlink()
    with pytest.raises(ArtifactError, match=r"take the folder that diffusers writes, or put its config\.json beside"):
        take("diffusers_dc_ae", folder, tmp_path / "bare")


V5 = (
    ("encoder.encoder.layer.", "encoder.layers."),
    ("encoder.vision_model.", "encoder."),
    ("attention.attention.query.", "attention.q_proj."),
    ("attention.attention.key.", "attention.k_proj."),
    ("attention.attention.value.", "attention.v_proj."),
    ("attention.output.dense.", "attention.o_proj."),
    ("intermediate.dense.", "mlp.fc1."),
    ("output.dense.", "mlp.fc2."),
)
"""(a part of a name in transformers 4, in transformers 5), of an encoder."""


def renewed(state: Tensors, *, back: bool = False) -> Tensors:
    """The state in the names of transformers 5, or `back` in those of 4 for a DINOv2."""
    found = {}
    for key, value in state.items():
        if key.startswith("encoder."):
            for former, now in V5:
                if not back:
                    key = key.replace(former, now, 1)
                elif "attention." in former:
                    key = key.replace(now, former, 1)
        found[key] = value
    return found


@pytest.mark.parametrize("name", RAE)
def test_encoders_are_read_in_the_names_of_either_transformers(name: str, tmp_path: Path) -> None:
    other = renewed(fixture(name).state, back=name == "diffusers_rae_dinov2")
    assert other.keys() != fixture(name).state.keys()
    first, second = (
        model_of(take(name, folder_of(name, tmp_path / f"theirs{index}", state=state), tmp_path / f"taken{index}"))
        for index, state in enumerate((fixture(name).state, other))
    )
    same(first.state_dict(), second.state_dict())


def test_an_rae_keeps_its_encoder_frozen_its_statistics_and_its_noise(tmp_path: Path) -> None:
    name = "diffusers_rae_dinov2"
    imported = take(name, folder_of(name, tmp_path / "theirs"), tmp_path / "taken")
    assert "as by noise: {use: uniform, max: 0.8}" in "\n".join(imported.lines)
    model = model_of(imported)
    assert (model.spec.image_size, model.spec.stride, model.spec.latent_dim) == (12, 4, 128)
    settings = model.spec.regularizer.model_dump()
    assert (settings["use"], settings["statistics"], settings["momentum"]) == ("standardize", "position", 0)
    encoder = model.spec.encoder.model_dump()
    assert {key: encoder[key] for key in ("heads", "patch", "prefix", "hidden", "frozen")} == {
        "heads": 2, "patch": 14, "prefix": 5, "hidden": 512, "frozen": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        ({"encoder_type": "clip"}, without(), "encoder_type clip; gaekit reads dinov2, siglip2, mae"),
        ({"num_channels": 1}, without(), "num_channels is 1; gaekit's network is for 3"),
        ({}, without("decoder.decoder_layers.1.output"), "2 missing: decoder.blocks.1.mlp.fc2.bias"),
        ({}, without("encoder.embeddings.register_tokens"), "encoder.register_tokens|register_tokens should be there"),
        ({}, lambda state: {**state, "_latents_mean": torch.ones(7, 3, 3)}, "is of other latents than those of"),
        ({}, lambda state: {**state, "encoder.extra": torch.ones(1)}, "1 unexpected: encoder.extra"),
    ],
)
def test_an_rae_that_does_not_fit_is_refused(
    settings: dict[str, Any], change: Change, message: str, tmp_path: Path
) -> None:
    name = "diffusers_rae_dinov2"
    folder = folder_of(name, tmp_path / "theirs", state=change(fixture(name).state), **settings)
    with pytest.raises(ArtifactError, match=message):
        take(name, folder, tmp_path / "taken")
    (folder / CONFIG).unlink()
    with pytest.raises(ArtifactError, match=r"do not tell its encoder's kind; take the folder"):
        take(name, folder, tmp_path / "taken")
    assert not (tmp_path / "taken").exists()


def test_a_file_taken_for_another_format_is_told_its_own(tmp_path: Path) -> None:
    for name, format_ in {
        "diffusers_flux2": "flux2-vae",
        "diffusers_dc_ae": "dc-ae",
        "diffusers_rae_mae": "rae",
    }.items():
        file = folder_of(name, tmp_path / name) / WEIGHTS
        with pytest.raises(ArtifactError, match=f"the names are those of format {format_}"):
            import_file("ldm-vae", file, tmp_path / "taken", Options(image_size=24), registry())


def test_what_gaekit_does_not_write_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    take("diffusers_flux2", folder_of("diffusers_flux2", tmp_path / "theirs"), tmp_path / "taken")
    for format_, message in {
        "flux2-vae": "gaekit writes no file of format flux2-vae; it writes gae, gae-semantic, ldm-vae, ",
        "ldm-vae": "its encoder has patch 2; the format ldm-vae is for patch 1",
    }.items():
        out = str(tmp_path / "back.safetensors")
        assert main(["export", format_, str(tmp_path / "taken"), "--out", out]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "back.safetensors").exists()
