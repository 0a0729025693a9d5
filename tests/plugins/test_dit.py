import pytest
import torch
from denoiser_helpers import DENOISERS, count, published_plain
from parity_helpers import close, load_fixture
from torch import nn

from gaekit.errors import ArtifactError
from gaekit.flow.ddpm import Ddpm
from gaekit.interop.dit import from_published, to_published

SMALL = DENOISERS["dit"]
busy, inputs = SMALL.busy, SMALL.inputs


def at_steps(steps):
    """The times of DDPM's integer steps."""
    return torch.tensor([Ddpm().time(int(step)) for step in steps])


@pytest.mark.parametrize("backend", ["sdpa", "math"])
def test_published_noise_and_variance_are_reproduced(backend):
    network, given, outputs = published_plain("dit", from_published)
    for block in network.blocks:
        block.attn.backend = backend
    prediction = network(given["x"], at_steps(given["t"]), given["y"])
    close(torch.cat([prediction.out_BDHW, prediction.variance_BDHW], dim=1), outputs["model"])


def test_every_one_of_the_thousand_steps_reaches_the_embedding_unrounded():
    network, _, _ = published_plain("dit", from_published)
    seen = []
    network.t_embedder.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    steps = torch.arange(1000)
    x = torch.zeros(1000, 4, 8, 8)
    network.blocks = nn.ModuleList()  # the embedding alone is of interest
    network(x, at_steps(steps), torch.zeros(1000, dtype=torch.long))
    assert torch.equal(seen[0], steps)


def test_the_ends_of_time_are_the_ends_of_the_chain():
    network = busy()
    x, _, label = inputs()
    for end, step in ((0.0, 999), (1.0, 0)):
        expected = network(x, at_steps([step] * 3), label).out_BDHW
        assert torch.equal(network(x, torch.full((3,), end), label).out_BDHW, expected)


def test_published_names_go_there_and_back_from_a_wrapped_checkpoint():
    _, state, _, _ = load_fixture("dit")
    ours = from_published({f"module._orig_mod.{key}": value for key, value in state.items()})
    back = to_published(ours)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_weights_of_another_kind_are_refused_by_what_is_missing():
    _, state, _, _ = load_fixture("lightning_dit")
    with pytest.raises(ArtifactError, match=r"published DiT: blocks\.0\.mlp\.fc1\.weight should be there; it holds bl"):
        from_published(state)
    with pytest.raises(ArtifactError, match="it holds nothing"):
        from_published({})


@pytest.mark.parametrize(("size", "millions"), [("S", 33), ("B", 130), ("L", 458), ("XL", 675)])
def test_sizes_have_the_published_numbers_of_parameters(size, millions):
    """Table 1 and the model table of arXiv 2212.09748, for 4 channels, 32 x 32 positions and patches of 2."""
    assert round(count(SMALL.sized(size, channels=4, grid=32)) / 1e6) == pytest.approx(millions, abs=1)


def test_xl_is_the_published_network_to_the_last_parameter():
    """By the layers' sizes: DiT-XL/2 has 675,129,632 parameters, 294,912 of them fixed positions."""
    network = SMALL.sized("XL", channels=4, grid=32)
    w, out = 1152, 2 * 2 * 8
    block = (3 * w + 1) * w - w + 3 * w + (w + 1) * w + (w + 1) * 4 * w + (4 * w + 1) * w + (w + 1) * 6 * w
    around = (16 + 1) * w + (256 + 1) * w + (w + 1) * w + 1001 * w + (w + 1) * 2 * w + (w + 1) * out
    assert count(network, learned=True) == 28 * block + around
    assert count(network, learned=False) == 256 * w
    assert round(count(network) / 1e6, 1) == 675.1


@pytest.mark.parametrize("learn_sigma", [True, False])
def test_the_variance_is_answered_where_it_is_learned(learn_sigma):
    assert (busy(learn_sigma=learn_sigma)(*inputs()).variance_BDHW is not None) is learn_sigma


def test_noise_and_variance_are_their_own_halves():
    network = busy()
    linear = network.final_layer.linear
    with torch.no_grad():
        before = network(*inputs())
        linear.bias.view(2, 2, 8)[:, :, 4:] += 1  # a token is (row, column, channel)
        after = network(*inputs())
    torch.testing.assert_close(after.out_BDHW, before.out_BDHW)
    torch.testing.assert_close(after.variance_BDHW, before.variance_BDHW + 1)
