import math

import pytest
import torch
from parity_helpers import load_fixture
from torch.nn import functional as F

from gaekit.errors import GaekitError
from gaekit.nn.embed import (
    FourierEmbedder,
    LabelEmbedder,
    PatchEmbed,
    RotaryPositions,
    TimestepEmbedder,
    sincos_positions,
    to_grid,
    to_tokens,
    unpatchify,
)


def seeded(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_fixed_positions_are_the_published_ones():
    _, state, _, _ = load_fixture("lightning_dit")
    torch.testing.assert_close(sincos_positions(64, 4), state["pos_embed"], atol=1e-6, rtol=0)


def test_rotary_tables_are_the_published_ones():
    _, state, _, _ = load_fixture("lightning_dit")
    rope = RotaryPositions(16, 4)
    torch.testing.assert_close(rope.freqs_cos, state["feat_rope.freqs_cos"], atol=1e-6, rtol=0)
    torch.testing.assert_close(rope.freqs_sin, state["feat_rope.freqs_sin"], atol=1e-6, rtol=0)


def test_rotary_scores_depend_on_the_displacement_alone():
    grid = 5
    rope = RotaryPositions(8, grid)
    query, key = (seeded(2, 8)[i].expand(1, grid * grid, 1, 8) for i in (0, 1))
    scores = (rope(query)[0, :, 0] @ rope(key)[0, :, 0].T).view(grid, grid, grid, grid)
    torch.testing.assert_close(scores[1, 1, 2, 3], scores[2, 0, 3, 2])
    torch.testing.assert_close(scores[4, 4, 1, 0], scores[3, 4, 0, 0])
    assert abs(scores[0, 0, 1, 2] - scores[0, 0, 2, 1]) > 1e-3  # rows and columns are told apart


def test_positions_that_do_not_fit_are_refused():
    with pytest.raises(GaekitError, match=r"6 cannot carry .* multiple of 4"):
        RotaryPositions(6, 4)
    with pytest.raises(GaekitError, match=r"10 cannot carry .* multiple of 4"):
        sincos_positions(10, 4)


def test_time_frequencies_run_from_one_to_a_ten_thousandth():
    embedder = TimestepEmbedder(8, frequencies=4)
    captured = []
    embedder.mlp[0].register_forward_pre_hook(lambda _, args: captured.append(args[0]))
    embedder(torch.tensor([0.0, 1.5]))
    rates = (1.0, 0.01)
    at = [[math.cos(1.5 * r) for r in rates] + [math.sin(1.5 * r) for r in rates]]
    torch.testing.assert_close(captured[0], torch.tensor([[1.0, 1.0, 0.0, 0.0], *at]))


def test_label_table_has_a_row_for_no_class_even_without_classes():
    assert LabelEmbedder(10, 8)(torch.tensor([0, 10])).shape == (2, 8)
    assert LabelEmbedder(0, 8)(torch.tensor([0])).shape == (1, 8)
    with pytest.raises(IndexError):
        LabelEmbedder(10, 8)(torch.tensor([11]))


def test_patch_embedding_is_one_linear_layer_over_each_patch():
    embed = PatchEmbed(3, 5, 2)
    x = seeded(2, 3, 6, 6)
    patches = F.unfold(x, kernel_size=2, stride=2).transpose(1, 2)
    torch.testing.assert_close(embed(x), F.linear(patches, embed.proj.weight.flatten(1), embed.proj.bias))


def test_patch_embedding_starts_with_the_spread_of_a_linear_layer():
    embed = PatchEmbed(4, 64, 4)
    embed.reset_parameters()
    assert embed.proj.weight.abs().max().item() == pytest.approx(math.sqrt(6 / (64 + 64)), rel=0.02)
    assert not embed.proj.bias.any()


def test_tokens_and_grid_are_inverse():
    x = seeded(2, 3, 4, 4)
    assert torch.equal(to_grid(to_tokens(x), 4), x)


def test_unpatchify_is_pixel_shuffle_with_channels_last_in_a_token():
    tokens = seeded(2, 9, 2 * 2 * 3)
    channels_first = tokens.view(2, 9, 4, 3).transpose(2, 3).reshape(2, 9, 12)
    expected = F.pixel_shuffle(to_grid(channels_first, 3), 2)
    assert torch.equal(unpatchify(tokens, patch=2, grid=3), expected)


def test_fourier_features_are_sines_and_cosines_of_whole_turns_at_fixed_random_rates():
    torch.manual_seed(0)
    embedder = FourierEmbedder(8, frequencies=4000)
    assert embedder.frequencies.mean().item() == pytest.approx(0, abs=0.05)
    assert embedder.frequencies.std().item() == pytest.approx(1, abs=0.05)
    assert not embedder.frequencies.requires_grad
    seen = []
    embedder.mlp.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    embedder.frequencies.data[:2] = torch.tensor([1.0, 3.0])
    assert embedder(torch.tensor([0.0, 0.25])).shape == (2, 8)
    sines, cosines = seen[0].chunk(2, dim=1)
    torch.testing.assert_close(sines[:, :2], torch.tensor([[0.0, 0.0], [1.0, -1.0]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(cosines[:, :2], torch.tensor([[1.0, 1.0], [0.0, 0.0]]), atol=1e-6, rtol=0)


def test_fourier_features_start_with_small_weights_and_biases_as_torch_draws_them():
    torch.manual_seed(0)
    embedder = FourierEmbedder(64, frequencies=256)
    embedder.reset_parameters()
    first, _, second = embedder.mlp
    assert first.weight.std().item() == pytest.approx(0.02, rel=0.05)
    for layer in (first, second):  # uniform within 1 / sqrt(inputs)
        bound = layer.in_features**-0.5
        assert layer.bias.abs().max() <= bound
        assert layer.bias.std().item() == pytest.approx(bound / 3**0.5, rel=0.2)
