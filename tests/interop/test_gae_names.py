import pytest
import torch
from parity_helpers import load_fixture

from gaekit.errors import ArtifactError
from gaekit.interop.gae import (
    denoiser_from_published,
    denoiser_to_published,
    fuse_gates,
    split_gates,
    tokenizer_from_published,
    tokenizer_to_published,
)


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_tokenizer_goes_there_and_back_unchanged():
    _, state, _, _ = load_fixture("gae_tokenizer")
    same(tokenizer_to_published(*tokenizer_from_published(state)), state)


def test_what_training_left_in_a_tokenizer_is_passed_over():
    _, state, _, _ = load_fixture("gae_tokenizer")
    with_loss = {**state, "loss.logvar": torch.zeros(()), "loss.discriminator.main.0.bias": torch.zeros(4)}
    for ours, expected in zip(tokenizer_from_published(with_loss), tokenizer_from_published(state), strict=True):
        same(ours, expected)


def test_a_file_of_another_kind_is_refused_by_its_keys():
    _, state, _, _ = load_fixture("lightning_dit")
    with pytest.raises(ArtifactError, match=r"not a published GAE tokenizer.*holds blocks\.0\.adaLN"):
        tokenizer_from_published(state)
    _, state, _, _ = load_fixture("gae_tokenizer")
    with pytest.raises(ArtifactError, match="not a published GAE tokenizer"):
        tokenizer_from_published({k: v for k, v in state.items() if not k.startswith("decoder.")})


def test_plain_mlps_are_left_as_they_are():
    plain = {"blocks.0.mlp.fc1.weight": torch.ones(4, 2), "blocks.0.mlp.fc2.weight": torch.ones(2, 4)}
    same(fuse_gates(plain), plain)


def test_halves_of_a_split_gate_do_not_share_memory():
    split = split_gates({"mlp.w12.bias": torch.arange(4.0)})
    assert split["mlp.fc1.bias"].tolist() == [0, 1]
    assert split["mlp.gate.bias"].tolist() == [2, 3]
    assert split["mlp.fc1.bias"].untyped_storage().nbytes() == 8


def test_denoiser_goes_there_and_back_from_a_wrapped_checkpoint():
    _, state, _, _ = load_fixture("lightning_dit")
    ours = denoiser_from_published({f"module.{key}": value for key, value in state.items()})
    same(denoiser_to_published(ours, tokens=16), state)


def test_unused_positions_are_left_out_and_put_back_as_zeros():
    _, state, _, _ = load_fixture("lightning_dit")
    ours = denoiser_from_published(state, absolute_positions=False)
    assert "pos_embed" not in ours
    back = denoiser_to_published(ours, tokens=16)
    assert back["pos_embed"].shape == (1, 16, 64)
    assert not back["pos_embed"].any()
