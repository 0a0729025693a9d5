"""Report cards of small tokenizers on photographs, against pixels computed here; and cards beside each other."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_helpers import gaekit
from parity_helpers import load_fixture
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images

from gaekit.api import Dataset
from gaekit.cards import Arena, Card, making, read_card
from gaekit.cards.live import LiveTensors
from gaekit.cards.text import caption_of, markdown_of
from gaekit.cards.tokenizers import open_tokenizer
from gaekit.data.crop import to_float, to_uint8
from gaekit.errors import ArtifactError, GaekitError
from gaekit.interop.autoencoders import write_autoencoder
from gaekit.plugins import build, load_plugins
from gaekit.store.artifact import save_artifact
from gaekit.store.models import Autoencoder, AutoencoderSpec, save_autoencoder
from gaekit.train.progress import Reporter

REGISTRY = load_plugins()
SIDE, COUNT = 16, 60
CONV = {"use": "conv", "ch": 32, "ch_mult": [1, 1], "num_res_blocks": 1}
VIT = {"use": "vit", "depth": 1, "width": 32, "heads": 2}


def spec(encoder: dict[str, Any], stride: int, regularizer: str, side: int = SIDE) -> AutoencoderSpec:
    data = {
        "image_size": side, "stride": stride, "latent_dim": 4, "encoder": encoder, "decoder": encoder,
        "regularizer": {"use": regularizer},
    }  # fmt: skip
    return AutoencoderSpec.from_json(data, REGISTRY, "test")


def tokenizer(folder: Path, of: AutoencoderSpec, seed: int) -> Autoencoder:
    torch.manual_seed(seed)
    model = Autoencoder(of, REGISTRY).eval()
    save_autoencoder(folder / "autoencoder.safetensors", model.state_dict(), of, {}, {})
    return model


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pictures: crops of two photographs, a folder each; vit, other: artifacts; vae.safetensors: a published file."""
    root = tmp_path_factory.mktemp("cards")
    random = np.random.default_rng(0)
    for index in range(COUNT):
        photo = load_sample_images().images[index % 2]
        top, left = (int(random.integers(0, side - SIDE)) for side in photo.shape[:2])
        file = root / "pictures" / ("china", "flower")[index % 2] / f"{index:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo[top : top + SIDE, left : left + SIDE]).save(file)
    tokenizer(root / "vit", spec(VIT, 4, "rms_norm"), 0)
    tokenizer(root / "other", spec(VIT, 4, "rms_norm"), 1)
    vae = tokenizer(root / "vae", spec(CONV, 2, "kl"), 0)
    save_file(write_autoencoder("ldm-vae", vae.state_dict()), root / "vae.safetensors")
    tokenizer(root / "large", spec(VIT, 4, "rms_norm", side=2 * SIDE), 0)
    save_file(load_fixture("gae_tokenizer")[1], root / "gae.safetensors")
    return root


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """The usual metrics that take no network, and speeds of one pass."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gaekit.cards.making.DEFAULTS", ("psnr", "ssim", "lpips", "linear_probe"))
        patch.setattr("gaekit.cards.speed.ENOUGH_SECONDS", 0.0)
        patch.setattr("gaekit.api.assets.Download.find", lambda self: None)  # LPIPS is not here, wherever this runs
        yield


@pytest.fixture(scope="module")
def cards(place: Path) -> dict[str, dict[str, Any]]:
    """By their names: of the three tokenizers, written and shown as a page."""
    words = ["report-card", "vit", "b=other", "sd=ldm-vae:vae.safetensors", "--data", "pictures", "--size", str(SIDE)]
    done = gaekit(place, *words, "--out", "made", "--html", "arena.html", "--device", "cpu", "--json")
    found = {card["tokenizer"]["name"]: card for card in json.loads(done.stdout)}
    assert found == {name: json.loads((place / "made" / f"{name}.json").read_text()) for name in ("vit", "b", "sd")}
    return found


def test_a_cards_psnr_is_that_of_the_held_out_images(place: Path, cards: dict[str, Any]) -> None:
    config = making.data_set(str(place / "pictures"), REGISTRY)
    held_out = build(Dataset, config, REGISTRY).validation()
    model = tokenizer(place / "again", spec(VIT, 4, "rms_norm"), 0)
    found = []
    for index in range(len(held_out)):
        pixels = np.array(held_out[index][0])
        with torch.no_grad():
            rebuilt = to_uint8(model.reconstruct(to_float(pixels[None])))[0].numpy()
        error = ((pixels.astype(int) - rebuilt.astype(int)) ** 2).mean()
        found.append(10 * math.log10(255**2 / error))
    number = cards["vit"]["numbers"]["reconstruction/psnr"]
    assert number["value"] == pytest.approx(np.mean(found), rel=1e-6)
    assert number["per_image"] == pytest.approx(found, rel=1e-6)
    assert number["higher"] is True
    assert cards["vit"]["data"]["images"] == len(found) < COUNT
    assert cards["vit"]["left_out"] == [
        "lpips: not here: torchvision's ImageNet weights of alexnet; --metric lpips fetches it where there is a network"
    ]


def test_a_card_says_what_a_tokenizer_is_and_what_it_takes(cards: dict[str, Any]) -> None:
    about, speed = cards["vit"]["tokenizer"], cards["vit"]["speed"]
    model = Autoencoder(spec(VIT, 4, "rms_norm"), REGISTRY)
    assert about["latent"] == [4, 4, 4]
    assert about["parameters"]["encoder"] == sum(p.numel() for p in model.encoder.parameters())
    assert speed["encode"]["images_per_second"] > 0
    assert speed["decode"]["peak_bytes"] > 4 * about["parameters"]["decoder"]
    assert cards["sd"]["tokenizer"]["kind"] == "import of ldm-vae"
    assert {"latents/linear_probe_flat", "latents/linear_probe_pool"} < cards["sd"]["numbers"].keys()


def test_a_published_file_has_the_numbers_of_the_artifact_of_its_weights(place: Path, cards: dict[str, Any]) -> None:
    done = gaekit(place, "report-card", "vae", "--data", "pictures", "--device", "cpu", "--json")
    (card,) = json.loads(done.stdout)
    assert card["numbers"]["reconstruction/psnr"] == cards["sd"]["numbers"]["reconstruction/psnr"]


def test_metrics_are_tried_once_for_all_tokenizers(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def noted(kind: Any, config: Any, *given: Any, **sizes: Any) -> Any:
        built.append(config.use)
        return build(kind, config, *given, **sizes)

    monkeypatch.setattr(making, "build", noted)
    monkeypatch.setattr(making, "DEFAULTS", ("psnr",))
    wanted = making.Wanted([str(place / "vit"), str(place / "other")], str(place / "pictures"), device="cpu")
    found = list(making.make_cards(wanted, REGISTRY, Reporter(Console(quiet=True))))
    assert [made.card.tokenizer["name"] for made in found] == ["vit", "other"]
    assert sorted(built) == ["image_folder", "psnr"]


def test_all_images_are_judged_where_asked(place: Path) -> None:
    done = gaekit(place, "report-card", "vit", "--data", "pictures", "--all", "--device", "cpu", "--json")
    (card,) = json.loads(done.stdout)
    assert (card["data"]["images"], card["data"]["split"]) == (COUNT, "all")
    told = caption_of(Arena([Card(**{**card, "left_out": ()})]))
    assert told.startswith(f"All {COUNT} images of image_folder (")
    assert "of latents: the held-out images" in told
    assert len(card["numbers"]["reconstruction/psnr"]["per_image"]) == COUNT


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["vit", "-m", "fid"], "--metric fid: judges samples, which a tokenizer alone does not make"),
        (["vit", "large"], "vit and large are made for images of 16 and 32 pixels, and numbers of different images"),
        (
            ["gae:gae.safetensors"],
            "these are options of `gaekit import gae gae.safetensors --out DIR`: import it first",
        ),
        (["vit", "--size", "32"], "--size 32: vit is made for images of 16 pixels and no others"),
        (["ldm-vae:vae.safetensors"], "takes images of any size; say --size R"),
        (["sit:vae.safetensors"], "a file of format sit is no autoencoder"),
        (["nowhere"], "a published checkpoint is given with its format, as gae:nowhere"),
        (["pictures"], "no artifact of the stage autoencoder there"),
    ],
)
def test_what_is_no_tokenizer_or_no_metric_of_one_is_told(place: Path, words: list[str], told: str) -> None:
    assert told in gaekit(place, "report-card", *words, "--data", "pictures", "--device", "cpu", code=2).stderr


def test_an_image_that_cannot_be_read_is_no_fault_of_a_metric(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "pictures", tmp_path / "pictures")
    words = ["report-card", str(place / "vit"), "--device", "cpu", "--json"]
    (before,) = json.loads(gaekit(tmp_path, *words, "--data", "pictures").stdout)
    config = making.data_set(str(tmp_path / "pictures"), REGISTRY)
    held_out = build(Dataset, config, REGISTRY).validation()
    (tmp_path / "pictures" / held_out.key(1)).write_text("no image")
    assert f"{Path(held_out.key(1)).name}: " in gaekit(tmp_path, *words, "--data", "pictures", code=2).stderr
    skipping = "{use: image_folder, root: pictures, on_bad_image: skip}"
    (after,) = json.loads(gaekit(tmp_path, *words, "--data", skipping).stdout)
    assert after["data"]["images"] == before["data"]["images"] - 1
    assert len(after["numbers"]["reconstruction/psnr"]["per_image"]) == after["data"]["images"]


def test_cards_are_kept_as_they_are_made_and_no_work_is_begun_for_a_page_that_cannot_be(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*given: Any) -> dict[str, Any]:
        if (tmp_path / "made/vit.json").exists():
            raise GaekitError("the second fails")
        return speed(*given)

    speed = making.measure_speed
    monkeypatch.setattr(making, "measure_speed", failing)
    words = ["report-card", "vit", "other", "--data", "pictures", "--device", "cpu", "--out", str(tmp_path / "made")]
    assert "the second fails" in gaekit(place, *words, code=2).stderr
    assert read_card(tmp_path / "made/vit.json").name == "vit"
    monkeypatch.setattr("gaekit.runs.page.html.require_matplotlib", failing)
    assert gaekit(place, *words, "--html", "page.html", code=2).stderr == "error: the second fails\n"


def test_cards_stand_in_one_table(place: Path, cards: dict[str, Any]) -> None:
    done = gaekit(place, "arena", "made/vit.json", "made/b.json", "made/sd.json")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["vit", "b", "sd"]
    (row,) = (line for line in lines if line.startswith("reconstruction/psnr"))
    values = [cards[name]["numbers"]["reconstruction/psnr"]["value"] for name in ("vit", "b", "sd")]
    cells = row.replace(" *", "*").split()[1:]
    assert [cell.endswith("*") for cell in cells] == [value == max(values) for value in values]
    assert [float(cell.rstrip("*")) for cell in cells] == pytest.approx(values, rel=1e-3)
    assert done.stderr.count("left out: lpips") == 1
    table = gaekit(place, "arena", "made/vit.json", "made/b.json", "--markdown").stdout
    assert table.splitlines()[:2] == ["|  | vit | b |", "| --- | ---: | ---: |"]


def test_cards_of_other_images_are_refused_and_the_difference_is_named(cards: dict[str, Any]) -> None:
    one = Card(**{**cards["vit"], "left_out": ()})
    data = {**one.data, "digest": "0" * 64, "images": 3}
    other = Card(**{**cards["b"], "left_out": (), "data": data})
    with pytest.raises(GaekitError, match=r"digest is \w{12}\.\.\. and 000000000000\.\.\.; images is \d+ and 3; make"):
        Arena([one, other])
    twice = Arena([one, one])
    assert twice.names == ("vit (A)", "vit (B)")
    assert "vit (B)" in markdown_of(twice)


def test_numbers_of_other_protocols_are_not_compared(cards: dict[str, Any]) -> None:
    one, other = (Card(**{**json.loads(json.dumps(cards[name])), "left_out": ()}) for name in ("vit", "b"))
    other.numbers["reconstruction/ssim"]["protocol"]["k1"] = 0.5  # type: ignore[index]
    arena = Arena([one, other])
    (row,) = (row for row in arena.rows if row.name == "reconstruction/ssim")
    assert arena.best(row) == set()
    assert "reconstruction/ssim: b cannot be compared with vit: k1: 0.01 and 0.5" in list(arena.notes())


def test_all_that_are_alike_are_the_best_and_a_difference_is_written_in_plain_digits(cards: dict[str, Any]) -> None:
    pytest.importorskip("jinja2", reason="pages need the extra report")
    from gaekit.cards.page import make_page

    three = [Card(**{**json.loads(json.dumps(cards["vit"])), "left_out": ()}) for _ in range(3)]
    for place, (card, psnr) in enumerate(zip(three, (1.0, 2000.0, 2000.0), strict=True)):
        rows = [psnr - 0.5, psnr + 0.5 + place / 100]
        card.numbers["reconstruction/psnr"].update(value=psnr, interval=[psnr - 1, psnr + 1], per_image=rows)  # type: ignore[attr-defined]
    arena = Arena(three)
    (row,) = (row for row in arena.rows if row.name == "reconstruction/psnr")
    assert arena.best(row) == {1, 2}
    (same,) = (row for row in arena.rows if row.name == "reconstruction/ssim")
    assert arena.best(same) == set()  # none is better than another
    assert markdown_of(arena).splitlines()[2].count(" *") == 2
    (told,) = re.findall(r"B is higher than A: [^<]*", make_page(arena))
    assert re.fullmatch(r"B is higher than A: \+\d,\d{3} to \+\d,\d{3}", told)


@pytest.mark.parametrize(
    "lacking",
    ["tokenizer.kind", "tokenizer.licence", "tokenizer.parameters.decoder", "data.dataset", "data.image_size",
     "data.split", "speed.device", "speed.batch", "speed.decode", "speed.encode.images_per_second"],
)  # fmt: skip
def test_a_card_that_lacks_what_tables_show_is_damaged(tmp_path: Path, cards: dict[str, Any], lacking: str) -> None:
    *folders, name = lacking.split(".")
    part = card = json.loads(json.dumps(cards["vit"]))
    for folder in folders:
        part = part[folder]
    del part[name]
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.raises(ArtifactError, match=f"damaged: {lacking}: Field required"):
        read_card(tmp_path / "card.json")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{}", "is no report card"),
        ('{"card": 9}', "written by a newer gaekit"),
        ('{"card": 1, "tokenizer": {"name": "x"}}', "damaged: tokenizer.kind"),
        ("no json", "cannot be read as JSON"),
    ],
)
def test_a_damaged_card_is_told(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(ArtifactError, match=told):
        read_card(tmp_path / "card.json")


@pytest.mark.parametrize("config", [{}, {"image_size": "16"}, {"image_size": 16, "imported": 5},
                                    {"image_size": 16, "imported": {"format": "gae"}}])  # fmt: skip
def test_a_tokenizer_whose_head_does_not_say_what_it_is_is_damaged(tmp_path: Path, config: dict[str, Any]) -> None:
    save_artifact(tmp_path / "autoencoder.safetensors", "autoencoder", config, {})
    with pytest.raises(ArtifactError, match=r"autoencoder\.safetensors: its head says .*damaged"):
        open_tokenizer(str(tmp_path), REGISTRY, tmp_path)


BEYOND = 10**400


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("tokenizer.latent", ["4", "4", "4"]), ("tokenizer.latent", [BEYOND, 4, 4]), ("tokenizer.image_size", "16"),
        ("tokenizer.parameters.encoder", BEYOND), ("tokenizer.parameters.decoder", -1),
        ("speed.encode.images_per_second", "5"), ("speed.decode.peak_bytes", BEYOND), ("speed.threads", BEYOND),
        ("data.images", True), ("numbers.x", {"value": BEYOND, "protocol": {}}),
        ("numbers.x", {"value": 1e308, "interval": [-1e308, 1e308], "protocol": {}}),
        ("numbers.x", {"value": 1.0, "protocol": {}, "per_image": [1e308]}),
    ],
)  # fmt: skip
def test_a_card_with_numbers_that_no_table_can_show_is_damaged(
    tmp_path: Path, cards: dict[str, Any], where: str, value: Any
) -> None:
    *folders, name = where.split(".")
    part = card = json.loads(json.dumps(cards["vit"]))
    for folder in folders:
        part = part[folder]
    part[name] = value
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.raises(ArtifactError, match=f"damaged: {where}"):
        read_card(tmp_path / "card.json")


def test_a_card_nested_without_end_is_damaged(tmp_path: Path, cards: dict[str, Any]) -> None:
    card = json.loads(json.dumps(cards["vit"]))
    card["numbers"]["reconstruction/psnr"]["protocol"]["deep"] = json.loads("[" * 400 + "]" * 400)
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.raises(ArtifactError, match="more than 32 deep"):
        read_card(tmp_path / "card.json")


def test_what_a_card_says_is_text_on_the_page_and_no_number_of_a_curve(tmp_path: Path, cards: dict[str, Any]) -> None:
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    card = json.loads(json.dumps(cards["vit"]))
    card["tokenizer"] |= {"name": evil, "kind": evil, "sha256": "<script>", "licence": evil}
    card["data"]["dataset"] = card["speed"]["device"] = evil
    card["left_out"] = [evil]
    card["numbers"] |= {
        name: {"value": 1.0, "interval": [0.5, 1.5], "protocol": {evil: evil}}
        for name in (f"reconstruction/{evil}", f"{evil}@3", "latents/x@1..2", "latents/x@1e", "latents/x@9e999")
    }
    (tmp_path / "card.json").write_text(json.dumps(card))
    pytest.importorskip("matplotlib")
    from gaekit.cards.page import make_page

    page = make_page(Arena([read_card(tmp_path / "card.json")]))
    assert "<script>" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_the_page_shows_pictures_and_plots_and_fetches_nothing(place: Path, cards: dict[str, Any]) -> None:
    page = (place / "arena.html").read_text()
    assert page.count("data:image/png") == 4 * min(8, cards["vit"]["data"]["images"])
    for part in ("What is rebuilt", "Numbers", "Quality over size", "All of it", "reconstruction/<wbr>psnr"):
        assert part in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")


def test_tensors_count_while_they_live() -> None:
    with LiveTensors() as live:
        one = torch.zeros(1000)
        two = one + 1
        del one
        three = two.view(10, 100) * 2  # a view is no memory, and a change in place neither
        three.relu_()
        del two
    assert live.peak == 8000
