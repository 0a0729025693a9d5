import pytest
import torch
from denoiser_helpers import DENOISERS, count, published_plain
from parity_helpers import close, load_fixture

from gaekit.errors import ArtifactError
from gaekit.flow.field import Field
from gaekit.flow.objective import flow_matching_terms
from gaekit.flow.path import get_path
from gaekit.interop.sit import from_published, to_published
from gaekit.values import GeneratorDraws
from gaekit_samplers.ode import Euler

SMALL = DENOISERS["sit"]
denoiser, busy, inputs = SMALL.build, SMALL.busy, SMALL.inputs


@pytest.mark.parametrize("backend", ["sdpa", "math"])
def test_published_prediction_is_reproduced(backend):
    network, given, outputs = published_plain("sit", from_published)
    for block in network.blocks:
        block.attn.backend = backend
    prediction = network(given["x"], given["t"], given["y"])
    close(prediction.out_BDHW, outputs["model"])
    assert prediction.variance_BDHW is None


@pytest.mark.parametrize("predicts", ["velocity", "noise", "score"])
def test_the_recipe_says_what_published_weights_were_trained_to_predict(predicts):
    """The whole mathematics is on trial in tests/flow; here, that the network's own `predicts` leads to it."""
    network, given, outputs = published_plain("sit", from_published, predicts=predicts)
    arguments = [given[f"loss_{name}"] for name in ("t", "x1", "y", "noise")]
    terms = flow_matching_terms(network, get_path("gvp"), *arguments, predicts=network.predicts)
    close(terms[f"{predicts}_mse"], outputs[f"loss_GVP_{predicts}_None"])
    if predicts != "score":
        field = Field(network, get_path("gvp"), None, given["sample_y"], 10, network.predicts)
        sampler = Euler(Euler.Config(use="euler", steps=10, compat="release"))
        sample = sampler.sample(field, given["init"], draws=GeneratorDraws(2))
        close(sample, outputs[f"ode_euler_GVP_{predicts}"])


def test_published_names_go_there_and_back():
    _, state, _, _ = load_fixture("sit")
    back = to_published(from_published({f"module.{key}": value for key, value in state.items()}))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)
    with pytest.raises(ArtifactError, match="published SiT: x_embedder"):
        from_published({"bias": torch.zeros(1)})


def test_xl_has_the_published_number_of_parameters():
    """675M in arXiv 2401.08740, with the unused half of the last layer."""
    used, published = (count(SMALL.sized("XL", channels=4, grid=32, learn_sigma=learn)) for learn in (False, True))
    assert round(published / 1e6, 1) == 675.1
    assert published - used == 16 * (1152 + 1)


def test_the_second_half_of_the_channels_is_unused():
    network, narrow = busy(), denoiser(learn_sigma=False)
    state = dict(network.state_dict())
    for part in ("weight", "bias"):
        value = state[f"final_layer.linear.{part}"]
        first_half = value.unflatten(0, (4, 8))[:, :4].flatten(0, 1)  # a token is (row, column, channel)
        state[f"final_layer.linear.{part}"] = first_half
    narrow.load_state_dict(state)
    torch.testing.assert_close(network(*inputs()).out_BDHW, narrow(*inputs()).out_BDHW)
