"""diffusers' AutoencoderKL is read as it is on people's disks, and written as diffusers loads it.

The golden files were made by diffusers 0.42.1 on a CPU: random weights rounded to half precision, in which they are
stored, widened to float32 before anything was computed. `config` holds the network's settings.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from import_helpers import registry, same, save
from import_helpers import state_of as published_state
from parity_helpers import Tensors, close, load_fixture
from safetensors.torch import load_file, save_file

from gaekit.cli import main
from gaekit.errors import ArtifactError
from gaekit.interop.autoencoders import read_ldm_vae, write_autoencoder
from gaekit.interop.diffusers_vae import CONFIG, WEIGHTS, from_published
from gaekit.interop.exporting import export_artifact
from gaekit.interop.formats import Options
from gaekit.interop.importing import Imported, import_file
from gaekit.store.artifact import open_artifact
from gaekit.store.models import Autoencoder, AutoencoderSpec, load_autoencoder, save_autoencoder

FILES = ("diffusers_vae", "diffusers_vae_attention")
FORMER = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
ATTENTION = "decoder.mid_block.attentions.0"


def folder_of(name: str, path: Path, *, state: Tensors | None = None, **settings: Any) -> Path:
    """A golden file as the folder that diffusers would have written; `settings` change its config.json."""
    config, held, _, _ = load_fixture(name)
    config = {key: value for key, value in config.items() if key not in ("kind", "diffusers", "resolution")}
    path.mkdir(parents=True)
    save_file(held if state is None else state, path / WEIGHTS)
    (path / CONFIG).write_text(json.dumps({"_class_name": "AutoencoderKL", **config, **settings}))
    return path


def take(path: Path, out: Path, image_size: int | None = 32) -> Imported:
    return import_file("ldm-vae", path, out, Options(image_size=image_size), registry())


def former(state: Tensors) -> Tensors:
    """The state in the names that diffusers wrote its attentions in at first."""
    renamed = {}
    for key, value in state.items():
        for now, then in FORMER.items():
            key = key.replace(now, then)
        renamed[key] = value
    return renamed


def reproduces(model: Autoencoder, name: str) -> None:
    _, _, inputs, outputs = load_fixture(name)
    with torch.no_grad():
        latent = model.encode(inputs["image"])[1]
        close(latent.mean_BDHW, outputs["mean"])
        close(2 * torch.as_tensor(latent.std_BDHW).log(), outputs["logvar"])
        close(model.reconstruct(inputs["image"]), outputs["reconstruction"])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("naming", ["of today", "former"])
def test_a_folder_of_diffusers_computes_what_diffusers_does(name: str, naming: str, tmp_path: Path) -> None:
    config, state, _, _ = load_fixture(name)
    folder = folder_of(name, tmp_path / "theirs", state=former(state) if naming == "former" else None)
    assert main(["import", "ldm-vae", str(folder), "--out", str(tmp_path / "taken"), "--image-size",
                 str(config["resolution"])]) == 0  # fmt: skip
    model = load_autoencoder(tmp_path / "taken" / "autoencoder.safetensors", registry())
    reproduces(model, name)
    settings = model.spec.encoder.model_dump()
    assert [settings["ch"] * factor for factor in settings["ch_mult"]] == config["block_out_channels"]
    assert settings["num_res_blocks"] == config["layers_per_block"]
    assert settings["quant_conv"] == config["use_quant_conv"]
    assert (model.spec.latent_dim, model.spec.regularizer.use) == (config["latent_channels"], "kl")


@pytest.mark.parametrize("name", FILES)
def test_what_is_exported_is_what_diffusers_wrote(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, state, _, _ = load_fixture(name)
    taken = take(folder_of(name, tmp_path / "theirs"), tmp_path / "taken", config["resolution"])
    back = tmp_path / "back"
    assert main(["export", "ldm-vae", str(tmp_path / "taken"), "--out", str(back), "--names", "diffusers"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"written: {back / WEIGHTS}", f"written: {back / CONFIG}"]
    same(load_file(back / WEIGHTS), {key: value.float() for key, value in state.items()})
    written = json.loads((back / CONFIG).read_text())
    assert written.pop("_class_name") == "AutoencoderKL"
    assert written == {key: config[key] for key in written}
    # What it leaves to diffusers' defaults is at these in the golden files too.
    left = {"shift_factor", "latents_mean", "latents_std", "force_upcast"} - set(written)
    assert all(config[key] is (True if key == "force_upcast" else None) for key in left)
    again = take(back, tmp_path / "again", config["resolution"])
    first, second = (open_artifact(found.artifact, "autoencoder").tensors("weights") for found in (taken, again))
    same(second, first)


def test_latent_diffusions_names_and_diffusers_hold_the_same(tmp_path: Path) -> None:
    """SD's autoencoder came out in the former names and goes by the latter: there and back is the same file."""
    state = published_state("ldm-vae")
    import_file("ldm-vae", save(tmp_path / "sd.ckpt", {"state_dict": state}), tmp_path / "taken",
                Options(image_size=32), registry())  # fmt: skip
    export_artifact("ldm-vae", tmp_path / "taken", tmp_path / "theirs", registry(), names="diffusers", scale=0.18215)
    assert "decoder.up_blocks.1.resnets.0.norm1.weight" in load_file(tmp_path / "theirs" / WEIGHTS)
    take(tmp_path / "theirs" / WEIGHTS, tmp_path / "again")
    export_artifact("ldm-vae", tmp_path / "again", tmp_path / "back.safetensors", registry())
    same(load_file(tmp_path / "back.safetensors"), state)


def test_stable_diffusions_own_names_and_sizes() -> None:
    spec = {"image_size": 256, "stride": 8, "latent_dim": 4, "regularizer": {"use": "kl"},
            "encoder": {"use": "conv"}, "decoder": {"use": "conv"}}  # fmt: skip
    with torch.device("meta"):
        model = Autoencoder(AutoencoderSpec.from_json(spec, registry(), "test"), registry())
    state = from_published(write_autoencoder("ldm-vae", model.state_dict()))
    assert (len(state), sum(value.numel() for value in state.values())) == (248, 83_653_863)
    known = {
        "encoder.down_blocks.1.resnets.0.conv_shortcut.weight": (256, 128, 1, 1),
        "encoder.down_blocks.2.downsamplers.0.conv.weight": (512, 512, 3, 3),
        "encoder.mid_block.attentions.0.to_q.weight": (512, 512),
        "decoder.up_blocks.0.upsamplers.0.conv.weight": (512, 512, 3, 3),
        "decoder.up_blocks.2.resnets.0.conv_shortcut.weight": (256, 512, 1, 1),
        "decoder.up_blocks.3.resnets.2.conv2.weight": (128, 128, 3, 3),
        "decoder.conv_norm_out.weight": (128,),
    }
    assert {key: tuple(state[key].shape) for key in known} == known


def test_the_factor_of_the_latents_is_kept_told_or_asked_for(tmp_path: Path) -> None:
    def exported(path: Path, scale: float | None = None) -> dict[str, Any]:
        export_artifact("ldm-vae", path, tmp_path / "back", registry(), names="diffusers", scale=scale)
        return dict(json.loads((tmp_path / "back" / CONFIG).read_text()))

    folder = folder_of("diffusers_vae_attention", tmp_path / "theirs")
    lines = take(folder, tmp_path / "taken", 16).lines
    assert lines[-2] == "diffusers standardises its latents by scaling_factor 0.3611, shift_factor 0.1159"
    assert exported(tmp_path / "taken")["shift_factor"] == 0.1159
    assert exported(tmp_path / "taken", 0.5)["scaling_factor"] == 0.5
    text = (folder / CONFIG).read_text().replace('"scaling_factor": 0.3611, "shift_factor": 0.1159, ', "")
    (folder / CONFIG).write_text(text)  # as SD's own is: it says none
    take(folder, tmp_path / "silent", 16)
    assert exported(tmp_path / "silent")["scaling_factor"] == 0.18215
    (folder / CONFIG).unlink()
    take(folder, tmp_path / "bare", 16)
    with pytest.raises(ArtifactError, match=r"say it with --scale F: 0\.18215 for Stable Diffusion's"):
        exported(tmp_path / "bare")
    assert exported(tmp_path / "bare", 1.0)["scaling_factor"] == 1.0


@pytest.mark.parametrize(
    ("lost", "faults"),
    [
        ("decoder.up_blocks.0.resnets.1", "8 missing: decoder.up_blocks.0.resnets.1.conv1.bias, "),
        (f"{ATTENTION}.to_k.weight", f"1 missing: {ATTENTION}.to_k.weight; "),
        (f"{ATTENTION}.to_q", f"2 missing: {ATTENTION}.to_q.bias, {ATTENTION}.to_q.weight; "),
        ("encoder.down_blocks.1.downsamplers", "2 missing: encoder.down_blocks.1.downsamplers.0.conv.bias, "),
    ],
)
def test_what_is_missing_is_named_as_the_file_would(lost: str, faults: str, tmp_path: Path) -> None:
    state = {k: v for k, v in load_fixture("diffusers_vae")[1].items() if not k.startswith(lost)}
    with pytest.raises(ArtifactError) as raised:
        take(folder_of("diffusers_vae", tmp_path / "theirs", state=state), tmp_path / "taken")
    assert str(raised.value).startswith(f"{tmp_path / 'theirs' / WEIGHTS}: does not fit an autoencoder of latent")
    assert faults in str(raised.value)
    assert str(raised.value).endswith("the file is probably cut off, or of a network without these parts")
    assert not (tmp_path / "taken").exists()


def test_other_networks_are_refused(tmp_path: Path) -> None:
    state = load_fixture("diffusers_vae")[1]

    def taken(changed: Tensors) -> str:
        save_file(changed, tmp_path / "other.safetensors")
        with pytest.raises(ArtifactError) as raised:
            take(tmp_path / "other.safetensors", tmp_path / "taken")
        return str(raised.value)

    extra = "encoder.down_blocks.0.resnets.0.time_emb_proj.weight"
    assert f"1 unexpected: {extra}; " in taken({**state, extra: torch.ones(2)})
    vq = taken({**state, "quantize.embedding.weight": torch.ones(2)})
    assert "not an autoencoder of latent diffusion" in vq
    assert "and holds quantize.embedding.weight" in vq
    assert "and lacks encoder.conv_in.weight" in taken(
        {k: v for k, v in state.items() if k != "encoder.conv_in.weight"}
    )
    unet = {"conv_in.weight": torch.ones(2), "down_blocks.0.resnets.0.conv1.weight": torch.ones(2)}
    assert "of whose networks gaekit reads AutoencoderKL as ldm-vae" in taken(unet)
    wide = {**state, "encoder.conv_in.weight": torch.ones(48, 3, 3, 3)}
    assert "levels of 32, 32, 64 channels after a first convolution to 48" in taken(wide)


def test_settings_that_no_tensor_tells_are_read_from_config_json(tmp_path: Path) -> None:
    for key, value in {"norm_num_groups": 16, "_class_name": "AsymmetricAutoencoderKL", "act_fn": "relu"}.items():
        folder = folder_of("diffusers_vae", tmp_path / key, **{key: value})
        with pytest.raises(ArtifactError, match=rf"config\.json: {key} is {value}; gaekit's network is for"):
            take(folder, tmp_path / "taken")
    (folder / CONFIG).write_text('{"_class_name": "Auto')
    with pytest.raises(ArtifactError, match=r"config\.json: damaged .* cannot be read as JSON"):
        take(folder, tmp_path / "taken")
    assert not (tmp_path / "taken").exists()


def ours(path: Path, regularizer: dict[str, Any], encoder: dict[str, Any], decoder: dict[str, Any]) -> Path:
    """An artifact of a small autoencoder of gaekit's own."""
    small = {"use": "conv", "ch": 32, "ch_mult": [1, 1], "num_res_blocks": 1}
    spec = AutoencoderSpec.from_json(
        {"image_size": 16, "stride": 2, "latent_dim": 4, "regularizer": regularizer, "encoder": {**small, **encoder},
         "decoder": {**small, **decoder}}, registry(), "test",
    )  # fmt: skip
    model = Autoencoder(spec, registry())
    save_autoencoder(path, model.state_dict(), spec, {}, {})
    return path


@pytest.mark.parametrize(
    ("regularizer", "encoder", "decoder", "message"),
    [
        ({"use": "none"}, {}, {}, "its regularizer has use none"),
        ({"use": "kl", "clamp": [-20.0, 20.0]}, {}, {}, "its regularizer has clamp"),
        ({"use": "kl"}, {"conv_out_channels": 10}, {}, "conv_out_channels 10: it has 8, two a channel of the latent"),
        ({"use": "kl"}, {}, {"conv_in_channels": 5}, "conv_in_channels 5: it has 4, as the latent"),
        ({"use": "kl"}, {"num_res_blocks": 2}, {}, "num_res_blocks 2 in the encoder and 1 in the decoder"),
        ({"use": "kl"}, {"ch_mult": [2, 2]}, {"ch_mult": [2, 2]}, "ch 32 and a first level of 64"),
    ],
)
def test_what_an_autoencoder_kl_cannot_be_is_refused(
    regularizer: dict[str, Any], encoder: dict[str, Any], decoder: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = ours(tmp_path / "autoencoder.safetensors", regularizer, encoder, decoder)
    with pytest.raises(ArtifactError) as raised:
        export_artifact("ldm-vae", path, tmp_path / "back", registry(), names="diffusers", scale=1.0)
    assert message in str(raised.value)
    assert not (tmp_path / "back").exists()


def test_an_autoencoder_trained_here_goes_to_diffusers_and_back(tmp_path: Path) -> None:
    path = ours(tmp_path / "autoencoder.safetensors", {"use": "kl"}, {"attn_resolutions": [8]}, {})
    export_artifact("ldm-vae", path, tmp_path / "theirs", registry(), names="diffusers", scale=0.5)
    config = json.loads((tmp_path / "theirs" / CONFIG).read_text())
    assert config["down_block_types"] == ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]
    assert config["up_block_types"] == ["UpDecoderBlock2D", "UpDecoderBlock2D"]
    model = read_ldm_vae(load_file(tmp_path / "theirs" / WEIGHTS), Options(image_size=16), registry())
    same(model.state_dict(), load_autoencoder(path, registry()).state_dict())


def test_options_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    for arguments, message in [
        (("dit", {"names": "diffusers"}), "--names diffusers is for ldm-vae"),
        (("ldm-vae", {"scale": 1.0}), "--scale is for --names diffusers"),
        (("ldm-vae", {"names": "diffusers", "scale": 0.0}), "--scale 0: the factor of the latents is a number above 0"),
    ]:
        with pytest.raises(ArtifactError, match=message):
            export_artifact(arguments[0], tmp_path, tmp_path / "back", registry(), **arguments[1])
    path = ours(tmp_path / "autoencoder.safetensors", {"use": "kl"}, {}, {})
    with pytest.raises(ArtifactError, match=r"in diffusers' names --out is a folder"):
        export_artifact("ldm-vae", path, tmp_path / "back.safetensors", registry(), names="diffusers", scale=1.0)
