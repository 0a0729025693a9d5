from functools import partial

import pytest
import torch

from gaekit.nn.dit import FinalLayer, ModulatedBlock
from gaekit.nn.mlp import MLP
from gaekit.nn.norm import RMSNorm
from gaekit.nn.vit import TransformerBlock


def seeded(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def block(shift):
    return ModulatedBlock(8, 2, tokens=4, norm=RMSNorm, mlp=partial(MLP, hidden=16), shift=shift)


def randomise(module):
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(parameter.numel()))


@pytest.mark.parametrize("shift", [True, False])
def test_a_fresh_block_is_the_identity(shift):
    fresh = block(shift)
    fresh.adaLN_modulation.reset_parameters()
    x = seeded(3, 4, 8)
    assert torch.equal(fresh(x, seeded(3, 8)), x)


@pytest.mark.parametrize("shift", [True, False])
def test_a_condition_of_the_image_is_that_of_each_of_its_tokens(shift):
    busy = block(shift)
    randomise(busy)
    x, condition = seeded(3, 4, 8), seeded(3, 8)
    torch.testing.assert_close(busy(x, condition), busy(x, condition[:, None].expand(3, 4, 8)))


@pytest.mark.parametrize("shift", [True, False])
def test_under_no_shift_unit_scale_and_open_gates_it_is_the_plain_block(shift):
    conditioned = block(shift)
    randomise(conditioned)
    plain = TransformerBlock(8, 2, tokens=4, norm=RMSNorm, mlp=partial(MLP, hidden=16))
    plain.load_state_dict({k: v for k, v in conditioned.state_dict().items() if not k.startswith("adaLN")})
    linear = conditioned.adaLN_modulation[1]
    torch.nn.init.zeros_(linear.weight)
    per_branch = [0.0, 0.0, 1.0] if shift else [0.0, 1.0]
    with torch.no_grad():
        linear.bias.copy_(torch.tensor(2 * per_branch).repeat_interleave(8))
    x = seeded(3, 4, 8)
    torch.testing.assert_close(conditioned(x, seeded(3, 8)), plain(x))


def test_a_fresh_final_layer_answers_zero_and_learns():
    final = FinalLayer(8, 4, norm=RMSNorm)
    final.reset_parameters()
    out = final(seeded(3, 4, 8), seeded(3, 8))
    assert not out.any()
    (out - 1).square().sum().backward()
    assert final.linear.weight.grad.any()
