"""FID and rFID against torch-fidelity's own result; references of every kind, and those that are refused."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inception_helpers import SIDE, WIDTH, Tiny, crops, fidelity, make, measure, tiny, tiny_features, to_float
from numpy.lib import format as npy
from PIL import Image
from scipy.linalg import sqrtm

from gaekit.api import GaekitError
from gaekit.store.npz import NpzWriter
from gaekit.testing import check_component
from gaekit_metrics.fid import Fid, Rfid, Sfid

REAL, FAKE = crops("china"), crops("flower")


class TinyFid(Fid):
    """FID by a small network."""

    name = "tiny_fid"

    def __init__(self, config: Any, **sizes: Any):
        super().__init__(config, extractor=Tiny(), **sizes)


class TinySfid(Sfid):
    """sFID by a small network."""

    name = "tiny_sfid"

    def __init__(self, config: Any, **sizes: Any):
        super().__init__(config, extractor=Tiny(), **sizes)


class TinyRfid(Rfid):
    """rFID by a small network."""

    name = "tiny_rfid"

    def __init__(self, config: Any, **sizes: Any):
        super().__init__(config, extractor=Tiny(), **sizes)


def statistics(images: torch.Tensor) -> dict[str, np.ndarray]:
    features = tiny_features(images)[0].double().numpy()
    return {"mu": features.mean(0), "sigma": np.cov(features.T)}


def npz(folder: Path, **arrays: Any) -> str:
    path = folder / "reference.npz"
    np.savez(path, **arrays)
    return str(path)


def rows(images: torch.Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).numpy()


def write_folder(folder: Path, images: torch.Tensor) -> str:
    for index, image in enumerate(rows(images)):
        path = folder / f"{index % 3}" / f"{index:04d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    (folder / "notes.txt").write_text("not an image")
    return str(folder)


def test_fid_is_torch_fidelitys() -> None:
    expected = fidelity(FAKE, REAL, fid=True)["frechet_inception_distance"]
    assert expected > 0.1
    assert measure(make("fid"), FAKE, REAL)["fid"] == pytest.approx(expected, rel=1e-5)


def test_fid_of_known_statistics_is_the_formula_with_scipys_root(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    mean, root = random.normal(size=WIDTH), random.normal(size=(WIDTH, 2 * WIDTH))
    own = statistics(FAKE)
    spread = np.trace(root @ root.T + own["sigma"] - 2 * sqrtm(root @ root.T @ own["sigma"]).real)
    expected = ((mean - own["mu"]) ** 2).sum() + spread
    made = make("fid", reference=npz(tmp_path, mu=mean, sigma=root @ root.T))
    assert made.split is None
    assert measure(made, FAKE)["fid"] == pytest.approx(expected, rel=1e-6)


def test_a_data_set_an_npz_of_images_or_statistics_and_a_folder_give_the_same_distance(tmp_path: Path) -> None:
    expected = measure(make("fid"), FAKE, REAL)["fid"]
    (tmp_path / "images").mkdir()
    references = {
        "images": npz(tmp_path / "images", arr_0=rows(REAL)),
        "statistics": npz(tmp_path, **statistics(REAL)),
        "folder": write_folder(tmp_path / "images", REAL),
    }
    for kind, reference in references.items():
        assert measure(make("fid", reference=reference), FAKE)["fid"] == pytest.approx(expected, rel=1e-5), kind


def test_images_as_gaekit_writes_samples_are_a_reference_and_read_by_numpy(tmp_path: Path) -> None:
    path, images = tmp_path / "samples.npz", rows(REAL)
    with NpzWriter(path) as writer:
        writer.add("arr_0", np.dtype(np.uint8), images.shape, np.array_split(images, 4))
        writer.add("arr_1", np.dtype(np.int64), (len(images),), [np.arange(len(images))])
    with np.load(path, allow_pickle=False) as read:
        assert list(read) == ["arr_0", "arr_1"]
        assert read["arr_0"].dtype == np.uint8
        np.testing.assert_array_equal(read["arr_0"], images)
    assert measure(make("fid", reference=str(path)), REAL)["fid"] == pytest.approx(0, abs=1e-6)


def test_statistics_are_taken_before_the_images_of_the_same_file(tmp_path: Path) -> None:
    reference = npz(tmp_path, arr_0=rows(FAKE), **statistics(REAL))
    made = make("fid", reference=reference)
    assert measure(made, FAKE)["fid"] == pytest.approx(measure(make("fid"), FAKE, REAL)["fid"], rel=1e-5)
    assert made.protocol()["statistics"] == "those of the file"
    assert made.protocol()["reference"]["n"] is None


def refused(folder: Path) -> dict[str, tuple[str, str]]:
    """reference, what the error says."""
    good, images = statistics(REAL), rows(REAL)

    def file(name: str, **arrays: Any) -> str:
        (folder / name).mkdir()
        return npz(folder / name, **arrays)

    (folder / "text.npz").write_text("no archive")
    (folder / "empty").mkdir()
    Image.new("RGB", (SIDE, SIDE + 1)).save(folder / "tall.png")
    crooked = good["sigma"] + np.triu(np.ones((WIDTH, WIDTH)), 1)
    (folder / "png").mkdir()
    (folder / "tall.png").rename(folder / "png" / "tall.png")
    return {
        "absent": (
            str(folder / "nowhere.npz"),
            "no reference .*nowhere.npz; give an .npz of ADM, a published one by name .* or a folder",
        ),
        "text": (str(folder / "text.npz"), "no readable .npz"),
        "other arrays": (file("a", x=good["mu"]), "holds x; an .npz of ADM holds mu and sigma, or images as arr_0"),
        "mean alone": (file("b", mu=good["mu"]), "holds mu; "),
        "other size": (file("c", arr_0=images[:, ::2, ::2]), r"arr_0 of shape \(60, 16, 16, 3\).*image.size = 32"),
        "channels first": (file("d", arr_0=REAL.numpy()), r"\(60, 3, 32, 32\)"),
        "floats": (file("e", arr_0=images / 255.0), "float64.*must be uint8"),
        "other network": (file("f", mu=np.zeros(5), sigma=np.eye(5)), f"features have {WIDTH} dimensions"),
        "not finite": (file("g", mu=good["mu"], sigma=good["sigma"] * np.nan), "finite and symmetric"),
        "not symmetric": (file("h", mu=good["mu"], sigma=crooked), "finite and symmetric"),
        "empty folder": (str(folder / "empty"), "holds no image"),
    }


def test_references_that_do_not_fit_are_refused_when_the_metric_is_built(tmp_path: Path) -> None:
    for what, (reference, message) in refused(tmp_path).items():
        with pytest.raises(GaekitError, match=f"(?s)metric 'fid'.*{message}"):
            make("fid", reference=reference)
            pytest.fail(what)


def test_an_image_of_another_size_in_a_folder_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, REAL[:3])
    Image.new("RGB", (SIDE, SIDE + 1)).save(tmp_path / "tall.png")
    made = make("fid", reference=str(tmp_path))
    with pytest.raises(GaekitError, match=r"tall\.png of shape \(33, 32, 3\).*image\.size = 32"):
        made.ready(torch.device("cpu"))


HUGE = 100_000_000


@pytest.mark.parametrize(
    ("shape", "follows", "told"),
    [
        ((10**12,), 100, r"has mu of float64, \(1000000000000,\)"),
        ((HUGE // 8,), HUGE, r"has mu of float64, \(12500000,\)"),
        ((WIDTH,), 8, "ends within mu"),
        ((-WIDTH,), 100, r"no readable array mu .*\(-"),
        ("a head without an end", HUGE, r"no readable array mu \(a head of 4294967280 bytes"),
        ("(((" * 2_000, 0, "no readable array mu"),
    ],
)
def test_what_an_npz_claims_is_not_believed(tmp_path: Path, shape: Any, follows: int, told: str) -> None:
    """A small file that claims, or unpacks to, a large array."""
    head = io.BytesIO()
    if isinstance(shape, tuple):
        npy.write_array_header_2_0(head, {"descr": "<f8", "fortran_order": False, "shape": shape})
    elif shape.startswith("("):
        head.write(b"\x93NUMPY\x02\x00" + len(shape).to_bytes(4, "little") + shape.encode())
    else:
        head.write(b"\x93NUMPY\x02\x00" + (0xFFFFFFF0).to_bytes(4, "little"))
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("mu.npy", head.getvalue() + bytes(follows))
        archive.writestr("sigma.npy", b"")
    tracemalloc.start()
    try:
        with pytest.raises(GaekitError, match=f"metric 'fid'.*{told}"):
            make("fid", reference=str(path))
        assert tracemalloc.get_traced_memory()[1] < HUGE / 10
    finally:
        tracemalloc.stop()


def test_an_npz_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = Path(npz(tmp_path, arr_0=rows(REAL)))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(GaekitError, match=r"no readable \.npz"):
        make("fid", reference=str(path))


def test_the_protocol_holds_reference_network_hashes_and_counts(tmp_path: Path) -> None:
    reference = npz(tmp_path, arr_0=rows(REAL))
    made = make("fid", reference=reference)
    measure(made, FAKE[:20])
    protocol = made.protocol()
    assert json.loads(json.dumps(protocol, allow_nan=False)) == protocol
    digest = hashlib.sha256(Path(reference).read_bytes()).hexdigest()
    assert protocol["reference"] == {"kind": "npz", "file": "reference.npz", "sha256": digest, "n": 60}
    assert protocol["extractor"] == {"network": "tiny"}
    assert (protocol["implementation"], protocol["n"]) == ("gaekit fid 1", 20)
    assert "warning" not in protocol
    made = make("fid", split="validation")
    measure(made, FAKE[:10], REAL)
    assert made.protocol()["reference"] == {"kind": "dataset", "split": "validation", "n": 60}
    assert "singular" in made.protocol()["warning"]


def test_a_folders_hash_follows_contents_and_names(tmp_path: Path) -> None:
    config = Fid.Config(use="fid", weights="random", reference=write_folder(tmp_path, REAL[:4]))
    before = Fid.external(config)
    (tmp_path / "notes.txt").write_text("other notes")
    assert Fid.external(config) == before
    (tmp_path / "0" / "0000.png").rename(tmp_path / "0" / "0009.png")
    renamed = Fid.external(config)
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "0" / "0009.png")
    assert len({before, renamed, Fid.external(config)}) == 3
    with pytest.raises(GaekitError, match="no reference"):
        Fid.external(Fid.Config(use="fid", weights="random", reference=str(tmp_path / "gone")))


@pytest.mark.parametrize("cut", [1, 7])
def test_no_cut_into_batches_changes_fid_or_rfid(cut: int) -> None:
    assert measure(make("fid"), FAKE, REAL, cut)["fid"] == pytest.approx(
        measure(make("fid"), FAKE, REAL)["fid"], rel=1e-5
    )
    rfid = make("rfid")
    for real, fake in zip(torch.split(REAL, cut), torch.split(FAKE, cut), strict=True):
        rfid.update(rfid.extract(to_float(real)), rfid.extract(to_float(fake)))
    assert rfid.compute()["rfid"] == pytest.approx(measure(make("fid"), FAKE, REAL)["fid"], rel=1e-5)
    assert rfid.protocol()["reference"] == {"kind": "the images that were reconstructed", "n": 60}


def test_rfid_of_images_that_are_their_own_reconstructions_is_zero() -> None:
    made = make("rfid")
    made.update(made.extract(to_float(REAL)), made.extract(to_float(REAL)))
    assert made.compute() == {"rfid": pytest.approx(0, abs=1e-9)}


def test_a_copy_of_the_metric_judges_other_samples_by_the_same_reference() -> None:
    made = make("fid")
    made.reference(made.extract(to_float(REAL)), torch.zeros(60))
    for fake in (FAKE, REAL):
        expected = measure(make("fid"), fake, REAL)["fid"]
        copied = copy.deepcopy(made)
        copied.update(copied.extract(to_float(fake)), torch.zeros(60))
        assert copied.compute()["fid"] == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_sfid_takes_the_spatial_statistics_of_an_npz_else_its_images(tmp_path: Path) -> None:
    features = tiny(REAL).spatial_BS.double().numpy()
    spatial = {"mu_s": features.mean(0), "sigma_s": np.cov(features.T)}
    expected = measure(make("sfid"), FAKE, REAL)["sfid"]
    for arrays in (statistics(FAKE) | spatial, {"arr_0": rows(REAL)}, statistics(FAKE) | {"arr_0": rows(REAL)}):
        assert measure(make("sfid", reference=npz(tmp_path, **arrays)), FAKE)["sfid"] == pytest.approx(expected)
    with pytest.raises(GaekitError, match="holds statistics alone; these scores need images"):
        make("sfid", reference=npz(tmp_path, **statistics(REAL)))
    with pytest.raises(GaekitError, match=r"mu_s of float64, \(4,\)"):
        make("sfid", reference=npz(tmp_path, mu_s=np.zeros(4), sigma_s=np.eye(4), arr_0=rows(REAL)))


def test_fid_and_rfid_keep_the_promises_of_a_metric() -> None:
    check_component(TinyFid)
    check_component(TinySfid)
    check_component(TinyRfid)


@pytest.mark.parametrize(("real", "fake", "what"), [(5, 1, "1 generated"), (1, 5, "1 real"), (0, 5, "0 real")])
def test_fewer_than_two_images_on_a_side_are_refused(real: int, fake: int, what: str) -> None:
    with pytest.raises(GaekitError, match=rf"was given {what} image\(s\)"):
        measure(make("fid"), FAKE[:fake], REAL[:real])


def test_the_suffix_tells_two_references_apart() -> None:
    assert list(measure(make("fid", suffix="val", split="validation"), FAKE, REAL)) == ["fid_val"]


def test_a_reference_from_the_data_set_is_not_taken_beside_a_file(tmp_path: Path) -> None:
    made = make("fid", reference=npz(tmp_path, **statistics(REAL)))
    with pytest.raises(TypeError, match="takes no reference"):
        made.reference(made.extract(to_float(REAL)), torch.zeros(60))


def test_features_that_are_not_finite_are_refused() -> None:
    class Blown(Tiny):
        def __call__(self, pixel_B3RR: torch.Tensor) -> Any:
            features = super().__call__(pixel_B3RR)
            features.feature_BF[0, 0] = float("inf")
            return features

    with pytest.raises(GaekitError, match="'fid': the network gave features that are not finite"):
        make("fid", Blown()).extract(to_float(FAKE))
