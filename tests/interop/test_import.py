"""Published checkpoints become artifacts: settings out of shapes, the rest asked for, what does not fit named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from import_helpers import GOLDEN, registry, same, save, state_of, take

from gaekit.api import Aligner, Denoiser
from gaekit.cli import main
from gaekit.errors import ArtifactError, GaekitError
from gaekit.interop.autoencoders import read_gae, read_ldm_vae, read_semantic, write_autoencoder
from gaekit.interop.denoisers import TABLE, read_denoiser
from gaekit.interop.fitting import SHOWN
from gaekit.interop.formats import FORMATS, Options
from gaekit.interop.gae import denoiser_to_published
from gaekit.interop.importing import import_file
from gaekit.interop.semantic_teacher import to_gae
from gaekit.interop.statistics import statistics_of, write_statistics
from gaekit.plugins import build
from gaekit.recipe.load import load_component
from gaekit.stages import STAGES
from gaekit.store.artifact import open_artifact
from gaekit.store.files import sha256_file
from gaekit.store.models import Autoencoder, AutoencoderSpec, Statistics, load_autoencoder, load_denoiser

DENOISERS = ("lightningdit", "dit", "sit", "dit_dh")


def cut(state: dict[str, Any], start: str) -> dict[str, Any]:
    return {key: value for key, value in state.items() if not key.startswith(start)}


def test_artifacts_are_called_as_the_stages_of_a_recipe_look_for_them() -> None:
    names = {stage.name: stage.artifact for stage in STAGES}
    assert {found.stage: found.artifact for found in FORMATS.values()} == {
        stage: names[stage] for stage in ("autoencoder", "semantic", "diffusion", "latents")
    }


@pytest.mark.parametrize("name", GOLDEN)
def test_an_artifact_says_what_it_was_made_of(name: str, tmp_path: Path) -> None:
    imported = take(name, {"state_dict": state_of(name)}, tmp_path)
    kind = {"semantic": "aligner", "diffusion": "denoiser"}.get(imported.stage, imported.stage)
    facts = open_artifact(imported.artifact, kind).config["imported"]
    expected = {"format": name, "file": "published.pt", "weights": "model"}
    assert {key: facts[key] for key in expected} == expected
    assert facts["sha256"] == sha256_file(tmp_path / "published.pt")
    assert imported.recipe_line == f"{imported.stage}: {{from: {tmp_path / 'taken'}}}"


def test_a_tokenizers_settings_are_read_off_its_tensors(tmp_path: Path) -> None:
    model = load_autoencoder(take("gae", {"state_dict": state_of("gae")}, tmp_path).artifact, registry())
    assert (model.spec.image_size, model.spec.stride, model.spec.latent_dim) == (32, 8, 8)
    assert model.spec.regularizer.use == "rms_norm"
    shown = model.spec.encoder.model_dump()
    assert {key: shown[key] for key in ("depth", "width", "heads", "mlp", "mlp_ratio", "mlp_multiple", "hidden")} == {
        "depth": 2, "width": 64, "heads": 4, "mlp": "swiglu", "mlp_ratio": 4.0, "mlp_multiple": 256, "hidden": 64,
    }  # fmt: skip


def test_an_ldm_vae_has_a_kl_posterior_and_its_levels(tmp_path: Path) -> None:
    model = load_autoencoder(take("ldm-vae", {"state_dict": state_of("ldm-vae")}, tmp_path).artifact, registry())
    assert (model.spec.image_size, model.spec.stride, model.spec.latent_dim) == (32, 2, 4)
    assert model.spec.regularizer.use == "kl"


def test_a_whole_stable_diffusion_file_gives_its_autoencoder(tmp_path: Path) -> None:
    state = {f"first_stage_model.{key}": value for key, value in state_of("ldm-vae").items()}
    whole = take("ldm-vae", {"state_dict": {**state, "model.diffusion_model.out.weight": torch.ones(2)}}, tmp_path)
    assert load_autoencoder(whole.artifact, registry()).spec.latent_dim == 4


@pytest.mark.parametrize("name", DENOISERS)
def test_classes_are_counted_off_the_label_table(name: str, tmp_path: Path) -> None:
    loaded = load_denoiser(take(name, state_of(name), tmp_path).artifact, registry())
    assert loaded.spec.classes == tuple("0123456789")
    assert loaded.spec.path == ("ddpm" if name == "dit" else "linear")


def test_classes_take_the_names_of_a_file(tmp_path: Path) -> None:
    names = [f"class {index}" for index in range(10)]
    (tmp_path / "names.txt").write_text("\n".join(names) + "\n")
    loaded = load_denoiser(take("sit", state_of("sit"), tmp_path, classes=tmp_path / "names.txt").artifact, registry())
    assert loaded.spec.classes == tuple(names)
    (tmp_path / "names.txt").write_text("a\nb\n")
    with pytest.raises(ArtifactError, match=r"names 2 classes; the label table has 11 rows, so 10 classes"):
        take("dit_dh", state_of("dit_dh"), tmp_path / "..", classes=tmp_path / "names.txt")


def test_a_table_without_a_row_of_no_class_gets_an_empty_one(tmp_path: Path) -> None:
    state = state_of("sit")
    (tmp_path / "names.txt").write_text("\n".join(f"c{index}" for index in range(11)))
    imported = take("sit", state, tmp_path, classes=tmp_path / "names.txt")
    network = load_denoiser(imported.artifact, registry()).network
    table = network.get_parameter(TABLE)
    assert len(table) == 12
    assert torch.equal(table[:11], state[TABLE])
    assert not table[11].any()
    assert any("cannot be guided" in line for line in imported.lines)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("lightningdit", {"use": "lightning_dit", "depth": 3, "width": 48, "heads": 4, "patch": 2, "mlp_ratio": 3.0}),
        ("lightningdit", {"use": "lightning_dit", "depth": 1, "width": 48, "heads": 6, "mlp": "mlp", "norm": "layer",
                          "qk_norm": True, "rope": False, "wo_shift": True, "mlp_ratio": 2.3}),
        ("lightningdit", {"use": "lightning_dit", "depth": 1, "width": 1152, "heads": 16, "rope": False}),
    ],
)  # fmt: skip
def test_every_switch_leaves_its_mark(name: str, settings: dict[str, Any]) -> None:
    config = load_component("denoiser", settings, registry(), source="test")
    network = build(Denoiser, config, registry(), channels=5, grid=6, classes=3)
    state = denoiser_to_published(network.state_dict(), tokens=36 // settings.get("patch", 1) ** 2)
    options = Options(heads=settings["heads"] if settings.get("rope") is False else None)
    _, spec = read_denoiser(name, state, options, registry())
    found = spec.denoiser.model_dump(exclude={"size", "mlp_ratio"})
    assert found == config.model_dump(exclude={"size", "mlp_ratio"})
    assert (spec.channels, spec.grid, len(spec.classes)) == (5, 6, 3)


def test_the_published_sizes_need_no_heads_to_be_said() -> None:
    config = load_component("denoiser", {"use": "sit", "size": "S"}, registry(), source="test")
    with torch.device("meta"):
        network = build(Denoiser, config, registry(), channels=4, grid=32, classes=1000)
    _, spec = read_denoiser("sit", network.state_dict(), Options(), registry())
    assert spec.denoiser.model_dump()["heads"] == 6


def test_heads_that_no_tensor_tells_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"do not tell how many heads share the 64 channels.*--heads N"):
        take("sit", state_of("sit"), tmp_path, heads=None)
    with pytest.raises(ArtifactError, match=r"--heads 8: the file's heads have 16 channels, so 4 share 64"):
        take("lightningdit", state_of("lightningdit"), tmp_path, heads=8)
    with pytest.raises(ArtifactError, match="--heads 5: 5 heads cannot share 64 channels"):
        take("gae", {"state_dict": state_of("gae")}, tmp_path, heads=5)


def test_a_side_that_no_tensor_tells_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="--grid 8: the file's positions are those of latents of side 4"):
        take("dit_dh", state_of("dit_dh"), tmp_path, grid=8)
    with pytest.raises(ArtifactError, match=r"say their side with --image-size N"):
        take("ldm-vae", {"state_dict": state_of("ldm-vae")}, tmp_path, image_size=None)
    state = cut(cut(state_of("lightningdit"), "feat_rope"), "pos_embed")
    with pytest.raises(ArtifactError, match=r"no tensor tells the side of the latents; say it with --grid N"):
        take("lightningdit", state, tmp_path, heads=4)
    assert load_denoiser(take("lightningdit", state, tmp_path, heads=4, grid=4).artifact, registry()).spec.grid == 4


def test_positions_that_a_network_does_not_use_are_left_out(tmp_path: Path) -> None:
    imported = take("lightningdit", state_of("lightningdit"), tmp_path, absolute_positions=False)
    assert "pos_embed" not in load_denoiser(imported.artifact, registry()).network.state_dict()


def test_a_denoiser_without_statistics_is_refused(tmp_path: Path) -> None:
    for name in DENOISERS:
        with pytest.raises(ArtifactError, match=r"nothing says how the latents are standardised.*--stats.*--scale"):
            take(name, state_of(name), tmp_path, scale=None)
    assert not (tmp_path / "taken").exists()


def test_statistics_come_as_others_write_them(tmp_path: Path) -> None:
    mean, std = torch.arange(8.0), torch.arange(1.0, 9)
    write_statistics(tmp_path / "latents_stats.pt", Statistics(mean, std))
    written = torch.load(tmp_path / "latents_stats.pt", weights_only=True)
    assert {key: value.shape for key, value in written.items()} == {"mean": (1, 8, 1, 1), "std": (1, 8, 1, 1)}
    (tmp_path / "plain.json").write_text(f'{{"mean": {mean.tolist()}, "std": {std.tolist()}}}')
    (tmp_path / "manifest.json").write_text(
        f'{{"rows": 3, "statistics": {{"mean": {mean.tolist()}, "std": {std.tolist()}}}}}'
    )
    save(tmp_path / "var.pt", {"mean": mean, "var": std**2 - 1e-5})
    for file in ("latents_stats.pt", "plain.json", "manifest.json", "var.pt"):
        found = statistics_of(Options(stats=tmp_path / file), 8)
        torch.testing.assert_close((found.mean_D, found.std_D), (mean, std))
    scaled = statistics_of(Options(stats=tmp_path / "var.pt", scale=0.5), 8)
    torch.testing.assert_close(scaled.standardise(torch.ones(1, 8, 2, 2))[0, :, 0, 0], 0.5 * (1 - mean) / std)


def test_a_fixed_scale_multiplies_latents(tmp_path: Path) -> None:
    statistics = load_denoiser(take("sit", state_of("sit"), tmp_path).artifact, registry()).statistics
    latent = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(statistics.standardise(latent), 0.18215 * latent)


def test_statistics_of_each_position_are_kept(tmp_path: Path) -> None:
    mean, std = torch.randn(8, 4, 4), torch.rand(8, 4, 4) + 1
    save(tmp_path / "stat.pt", {"mean": mean, "var": std**2})
    imported = take("dit_dh", state_of("dit_dh"), tmp_path, stats=tmp_path / "stat.pt", scale=None)
    statistics = load_denoiser(imported.artifact, registry()).statistics
    latent = torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(statistics.standardise(latent), (latent - mean) / (std**2 + 1e-5).sqrt())
    torch.testing.assert_close(statistics.restore(statistics.standardise(latent)), latent)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"mean": torch.zeros(5), "std": torch.ones(5)}, "statistics of shape (5,) are not those of latents of 8"),
        ({"mean": torch.zeros(8)}, "missing here: std"),
        ({"mean": torch.zeros(8), "std": torch.zeros(8)}, "std above 0"),
        ({"mean": torch.zeros(8), "std": torch.full((8,), torch.nan)}, "finite"),
        ({"mean": "none", "std": "none"}, "no numbers"),
    ],
)
def test_statistics_of_other_latents_are_refused(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as raised:
        statistics_of(Options(stats=save(tmp_path / "stats.pt", content)), 8)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("name", "of", "cause"),
    [
        ("gae", "lightningdit", "format lightningdit"),
        ("lightningdit", "dit_dh", "format dit_dh"),
        ("dit_dh", "lightningdit", "format lightningdit"),
        ("sit", "lightningdit", "format lightningdit"),
        ("ldm-vae", "gae", "format gae"),
        ("gae-semantic", "sit", "format dit or sit"),
        ("dit", "gae", "format gae"),
    ],
)
def test_a_file_of_another_format_is_told_by_its_name(name: str, of: str, cause: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as raised:
        take(name, state_of(of), tmp_path)
    assert str(raised.value).startswith(str(tmp_path / "published.pt"))
    assert str(raised.value).endswith(f"the names are those of {cause}")


@pytest.mark.parametrize("name", [name for name in GOLDEN if name != "gae-semantic"])
def test_missing_keys_are_named_first_five_with_the_cause(name: str, tmp_path: Path) -> None:
    state = state_of(name)
    middle = {"gae": "decoder.blocks.0", "ldm-vae": "decoder.mid.block_1"}.get(name, "blocks.1")
    keep, *lost = sorted(set(state) - set(cut(state, middle)))  # one is left, so that the block is known of
    with pytest.raises(ArtifactError) as raised:
        take(name, {**cut(state, middle), keep: state[keep]}, tmp_path)
    text = str(raised.value)
    more = f" and {len(lost) - SHOWN} more" if len(lost) > SHOWN else ""
    assert f" {len(lost)} missing: {', '.join(lost[:SHOWN])}{more}; " in text
    assert text.endswith("the file is probably cut off, or of a network without these parts")


@pytest.mark.parametrize("name", DENOISERS)
def test_unexpected_keys_and_shapes_are_named(name: str, tmp_path: Path) -> None:
    state = state_of(name)
    with pytest.raises(ArtifactError, match=r"1 unexpected: extra\.weight; .* of a network with parts"):
        take(name, {**state, "extra.weight": torch.ones(2)}, tmp_path)
    with pytest.raises(ArtifactError, match=r"1 of another shape: t_embedder\.mlp\.2\.bias \(3,\) for \(64,\)"):
        take(name, {**state, "t_embedder.mlp.2.bias": torch.ones(3)}, tmp_path)


def test_a_damaged_semantic_teacher_is_refused(tmp_path: Path) -> None:
    state = state_of("gae-semantic")
    with pytest.raises(ArtifactError, match=r"to_latent\.weight is missing"):
        take("gae-semantic", cut(state, "to_latent"), tmp_path)


def test_options_that_say_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GaekitError, match=r"--image-size says nothing about a file of format sit, which takes"):
        take("sit", state_of("sit"), tmp_path, image_size=256)
    with pytest.raises(GaekitError, match=r"unknown format 'dti'; known: gae, "):
        import_file("dti", tmp_path, tmp_path, Options(), registry())


def test_an_artifact_is_not_written_over(tmp_path: Path) -> None:
    take("sit", state_of("sit"), tmp_path)
    with pytest.raises(ArtifactError, match="exists already; choose another --out, or remove it"):
        take("dit_dh", state_of("dit_dh"), tmp_path)


def test_half_precision_is_taken_in_float32(tmp_path: Path) -> None:
    state = {key: value.half() if value.is_floating_point() else value for key, value in state_of("sit").items()}
    network = load_denoiser(take("sit", state, tmp_path).artifact, registry()).network
    same({key: value.half() for key, value in network.state_dict().items()}, state)
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32}


def vit(depth: int, width: int, heads: int, **settings: Any) -> dict[str, Any]:
    return {"use": "vit", "depth": depth, "width": width, "heads": heads, **settings}


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("gae", {"image_size": 24, "stride": 4, "latent_dim": 5, "regularizer": {"use": "rms_norm"},
                 "encoder": vit(3, 96, 6, hidden=40, mlp_ratio=2.0), "decoder": vit(1, 48, 4, mlp_multiple=1)}),
        ("gae", {"image_size": 8, "stride": 2, "latent_dim": 3, "regularizer": {"use": "rms_norm"},
                 "encoder": vit(1, 32, 4, mlp="gelu", bias=True), "decoder": vit(2, 32, 2, mlp="gelu", bias=True)}),
        ("ldm-vae", {"image_size": 32, "stride": 4, "latent_dim": 3, "regularizer": {"use": "kl"},
                     "encoder": {"use": "conv", "ch": 32, "ch_mult": [1, 2, 3], "num_res_blocks": 2,
                                 "attn_resolutions": [16, 8], "conv_out_channels": 10},
                     "decoder": {"use": "conv", "ch": 32, "ch_mult": [1, 2, 3], "num_res_blocks": 2,
                                 "attn_resolutions": [16, 8], "conv_in_channels": 5}}),
        ("ldm-vae", {"image_size": 16, "stride": 1, "latent_dim": 4, "regularizer": {"use": "none"},
                     "encoder": {"use": "conv", "ch": 64, "ch_mult": [1], "num_res_blocks": 1, "quant_conv": False},
                     "decoder": {"use": "conv", "ch": 64, "ch_mult": [1], "num_res_blocks": 1, "quant_conv": False}}),
    ],
)  # fmt: skip
def test_autoencoders_of_any_size_come_back_the_same(name: str, spec: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = Autoencoder(AutoencoderSpec.from_json(spec, registry(), "test"), registry()).eval()
    state = write_autoencoder(name, model.state_dict())
    if name == "gae":
        said = Options(heads=spec["encoder"]["heads"], decoder_heads=spec["decoder"]["heads"])
        back = read_gae(state, said, registry())
    else:
        back = read_ldm_vae(state, Options(image_size=spec["image_size"]), registry())
    same(back.state_dict(), model.state_dict())
    assert back.spec.regularizer == model.spec.regularizer
    image = torch.randn(2, 3, spec["image_size"], spec["image_size"])
    with torch.no_grad():
        assert torch.equal(back.reconstruct(image), model.reconstruct(image))


def test_a_semantic_teacher_with_windows_comes_back_the_same() -> None:
    settings = {"use": "latent", "window": 2, "decoder_depth": 3, "head_dim": 16, "mlp_ratio": 3.0, "mlp_multiple": 1}
    config = load_component("aligner", settings, registry(), source="test")
    aligner = build(Aligner, config, registry(), feature_dim=48, latent_dim=6, hidden_dim=1, grid=4)
    back = read_semantic(to_gae(aligner.state_dict()), Options(heads=3), registry())
    same(back.state_dict(), aligner.state_dict())
    assert back.config == config


@pytest.mark.parametrize(("feature_dim", "hidden"), [(384, 1024), (768, 2048), (1024, 2816)])
def test_a_published_semantic_teacher_is_the_one_that_the_defaults_build(feature_dim: int, hidden: int) -> None:
    shapes = {"pos_embed_pro": (1, 16, feature_dim), "pos_embed_dec": (1, 16, feature_dim),
              "projector_block.attn.qkv.weight": (3 * feature_dim, feature_dim),
              "projector_block.attn.proj.weight": (feature_dim, feature_dim),
              "to_latent.weight": (8, feature_dim), "recon_head.weight": (feature_dim, 8),
              "decoder_layers.0.attn.qkv.weight": (3 * feature_dim, feature_dim),
              "decoder_layers.0.attn.proj.weight": (feature_dim, feature_dim),
              "decoder_layers.0.mlp.fc1.weight": (hidden, feature_dim),
              "decoder_layers.0.mlp.gate.weight": (hidden, feature_dim),
              "decoder_layers.0.mlp.fc2.weight": (feature_dim, hidden)}  # fmt: skip
    imported = read_semantic({key: torch.randn(shape) for key, shape in shapes.items()}, Options(), registry())
    config = load_component("aligner", {"use": "latent"}, registry(), source="test")
    built = build(Aligner, config, registry(), feature_dim=feature_dim, latent_dim=8, hidden_dim=1, grid=4)
    assert imported.config == config
    assert {key: value.shape for key, value in to_gae(built.state_dict()).items()} == shapes


def test_errors_are_a_message_and_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = save(tmp_path / "published.pt", state_of("sit"))
    assert main(["import", "sit", str(file), "--out", str(tmp_path / "taken"), "--heads", "4"]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: nothing says how the latents are standardised")
    assert "Traceback" not in shown.err
    arguments = ["import", "sit", str(file), "--out", str(tmp_path / "taken"), "--heads", "4", "--scale", "0.18215"]
    assert main([*arguments, "--path", "gvp", "--predicts", "noise", "--weights", "model"]) == 0
    shown = capsys.readouterr()
    assert "latents 4 x 8 x 8, 10 classes, predicts noise, path gvp" in shown.out
    assert f"in a recipe: diffusion: {{from: {tmp_path / 'taken'}}}" in shown.out
