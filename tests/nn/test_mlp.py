import pytest
import torch

from gaekit.nn.mlp import MLP, SwiGLU, gated_width


@pytest.mark.parametrize(
    ("width", "multiple", "hidden"), [(1024, 256, 2816), (64, 256, 256), (768, 1, 2048), (96, 1, 256)]
)
def test_a_gated_mlp_gets_two_thirds_of_four_widths_rounded_up(width, multiple, hidden):
    assert gated_width(width, 4.0, multiple=multiple) == hidden


def test_swiglu_gates_by_the_silu_of_its_first_half():
    mlp = SwiGLU(2, 3).double()
    x = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    first, second = mlp.w12.weight[:3], mlp.w12.weight[3:]
    gate = x @ first.T + mlp.w12.bias[:3]
    value = x @ second.T + mlp.w12.bias[3:]
    expected = (gate / (1 + (-gate).exp()) * value) @ mlp.w3.weight.T + mlp.w3.bias
    torch.testing.assert_close(mlp(x), expected)


def test_plain_mlp_is_torch_layers_in_a_row():
    mlp = MLP(4, 8)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mlp(x), torch.nn.Sequential(mlp.fc1, torch.nn.GELU("tanh"), mlp.fc2)(x))


def test_without_bias_there_are_weights_alone():
    for mlp in (SwiGLU(4, 8, bias=False), MLP(4, 8, bias=False)):
        assert all(name.endswith("weight") for name, _ in mlp.named_parameters())
