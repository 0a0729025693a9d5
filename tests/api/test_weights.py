"""The setting `weights: hub | random | PATH`, as the guide for plugins shows it, and what files are refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from file_server import empty_caches
from safetensors.torch import save_file
from torch import nn

from gaekit.api import weights
from gaekit.errors import GaekitError

GUIDE = Path(__file__).parents[2] / "docs" / "plugins.md"


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class of the guide's example, which looks into empty caches."""
    empty_caches(tmp_path, monkeypatch)
    (source,) = (block for block in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.S) if "Download(" in block)
    namespace: dict[str, Any] = {"make_network": network}
    exec(source, namespace)
    return namespace["Judge"]


def test_the_guides_component_takes_published_given_and_random_weights(
    judge: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config(setting: str) -> Any:
        return judge.Config(use="judge", weights=setting, seed=3)

    image, other = torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8)
    random = judge(config("random"), image_size=8)
    assert judge.assets(config("random")) == ()
    assert judge.external(config("random")) == "random:3"
    path = tmp_path / "judge.safetensors"
    save_file(random.network.state_dict(), path)
    assert torch.equal(judge(config(str(path)), image_size=8)(image, other), random(image, other))
    assert judge.external(config(str(path))).startswith("sha256:")
    assert judge.external(config("hub")) == "hub:https://example.org/judge-7be5be79.pth"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(GaekitError, match=r"perceptual 'judge' needs the judge's weights: judge-7be5be79\.pth is not"):
        judge(config("hub"), image_size=8)


def test_random_networks_leave_torchs_generator_as_it_was() -> None:
    before = torch.random.get_rng_state()
    first, second = (weights.random_network(network, 5, "x").state_dict()["0.weight"] for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_counters_of_batch_norm_may_be_absent_and_nothing_else(tmp_path: Path) -> None:
    state = network().state_dict()
    del state["1.num_batches_tracked"]
    loaded = network()
    weights.load_into(loaded, state, tmp_path)
    assert torch.equal(loaded.state_dict()["0.weight"], state["0.weight"])
    state |= {"x": torch.ones(1), "0.bias": torch.ones(7)}
    del state["1.weight"]
    with pytest.raises(GaekitError, match=r"do not fit judge: 1 missing: 1\.weight; 1 unexpected: x; 1 of .* 0\.bias"):
        weights.load_into(network(), state, tmp_path, name="judge")
