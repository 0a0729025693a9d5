import pytest
import torch
from denoiser_helpers import DENOISERS, count
from parity_helpers import close, load_fixture

from gaekit.interop.gae import denoiser_from_published

SMALL = DENOISERS["lightning_dit"]
denoiser, busy, inputs = SMALL.build, SMALL.busy, SMALL.inputs


@pytest.mark.parametrize("name", ["lightning_dit", "lightning_dit_qknorm"])
@pytest.mark.parametrize("backend", ["sdpa", "math"])
def test_published_velocity_is_reproduced(name, backend):
    config, state, given, outputs = load_fixture(name)
    network = denoiser(qk_norm=config["use_qknorm"])
    network.load_state_dict(denoiser_from_published(state))
    for block in network.blocks:
        block.attn.backend = backend
    close(network(given["x"], given["t"], given["y"]).out_BDHW, outputs["velocity"])


def test_xl_has_the_published_number_of_parameters():
    network = SMALL.sized("XL", channels=32, grid=16)
    assert round(count(network) / 1e6, 1) == 675.3
    assert count(network, learned=False) == 256 * 1152


@pytest.mark.parametrize(("size", "millions"), [("S", 33), ("B", 130), ("L", 458), ("1.0B", 1003), ("1.6B", 1587)])
def test_every_size_builds_without_memory(size, millions):
    assert count(SMALL.sized(size, channels=32, grid=16)) / 1e6 == pytest.approx(millions, rel=0.03)


def test_without_positions_it_does_not_know_where_a_token_is():
    x, t, label = inputs()
    blind, seeing = busy(rope=False, absolute_positions=False), busy(rope=True, absolute_positions=False)
    for network, equal in ((blind, True), (seeing, False)):
        moved = network(x.flip(2, 3), t, label).out_BDHW.flip(2, 3)
        assert torch.allclose(moved, network(x, t, label).out_BDHW, atol=1e-5) is equal


def test_patches_come_back_where_they_were():
    network = busy(patch=2, depth=1)
    network.blocks[0].attn.proj.weight.data.zero_()  # no exchange between tokens
    x, t, label = inputs()
    moved = x.clone()
    moved[:, :, :2, 2:] += 1
    changed = (network(x, t, label).out_BDHW - network(moved, t, label).out_BDHW).abs().amax((0, 1)) > 1e-7
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[:2, 2:] = True
    assert torch.equal(changed, expected)
