"""A misspelt word is recognised."""

from __future__ import annotations

import string

import pytest

from gaekit.recipe.suggest import hint, near, one_edit_apart


@pytest.mark.parametrize("word", ["lr", "use", "steps", "also_unguided"])
def test_every_single_edit_of_a_word_is_one_edit_apart(word: str) -> None:
    edits = {word[:i] + c + word[i:] for i in range(len(word) + 1) for c in string.ascii_lowercase}
    edits |= {word[:i] + c + word[i + 1 :] for i in range(len(word)) for c in string.ascii_lowercase}
    edits |= {word[:i] + word[i + 1 :] for i in range(len(word))}
    edits |= {word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(len(word) - 1)}
    for edit in edits - {word}:
        assert one_edit_apart(edit, word)
        assert one_edit_apart(word, edit)


@pytest.mark.parametrize(
    ("a", "b"), [("steps", "steps"), ("steps", "stp"), ("abcd", "badc"), ("", "ab"), ("abc", "cab")]
)
def test_no_edit_and_two_edits_are_not_one(a: str, b: str) -> None:
    assert not one_edit_apart(a, b)


def test_short_words_that_difflib_misses_are_found() -> None:
    assert near("l", ["lr", "steps"]) == ["lr"]
    assert near("ues", ["use", "sigma"]) == ["use"]


def test_one_edit_beats_likeness_and_earlier_groups_beat_later_ones() -> None:
    assert near("stepz", ["step_size"], ["steps"]) == ["steps"]
    assert near("l3", ["l2"], ["l1"]) == ["l2"]


def test_words_as_near_as_each_other_are_all_told() -> None:
    assert hint("l", ["l1", "l2", "perceptual"]) == " -- did you mean 'l1' or 'l2'?"


def test_capitals_and_dashes_are_no_matter() -> None:
    assert near("RMS-Norm", ["rms_norm", "layer_norm"]) == ["rms_norm"]


def test_what_is_like_nothing_gets_the_list() -> None:
    assert hint("zzz", ["b", "a"]) == " -- known: a, b"
    assert hint("zzz", []) == " -- known: none"
