"""Each key of each shipped recipe, misspelt by one letter, fails with its line and the right suggestion."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from gaekit.errors import RecipeError
from gaekit.plugins import Registry, load_plugins
from gaekit.recipe import list_recipes, load_recipe


@dataclass(frozen=True)
class Key:
    """A key where it stands: `siblings` are the keys beside it, that a misspelling must not hit."""

    word: str
    line: int
    column: int
    siblings: frozenset[str]


def keys(node: yaml.Node | None) -> Iterator[Key]:
    if isinstance(node, yaml.MappingNode):
        words = frozenset(key.value for key, _ in node.value)
        for key, value in node.value:
            yield Key(key.value, key.start_mark.line, key.start_mark.column, words)
            yield from keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from keys(item)


def misspellings(word: str) -> list[str]:
    """One of each kind: a letter replaced, left out, put in, swapped with the next."""
    middle = len(word) // 2
    letter = next(c for c in string.ascii_lowercase if c not in word)
    swaps = [word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(len(word) - 1) if word[i] != word[i + 1]]
    replaced = word[:middle] + letter + word[middle + 1 :]
    return [replaced, word[:middle] + word[middle + 1 :], word[:middle] + letter + word[middle:], *swaps[-1:]]


@pytest.fixture(scope="module")
def plain() -> Registry:
    return load_plugins()


FAST = ("gae_d32", "smoke")


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(r.path, marks=() if r.name in FAST else pytest.mark.slow, id=r.name) for r in list_recipes()],
)
def test_each_misspelt_key_fails_with_its_line_and_the_right_suggestion(
    recipe: Path, plain: Registry, tmp_path: Path
) -> None:
    lines = recipe.read_text(encoding="utf-8").splitlines(keepends=True)
    load_recipe(recipe, plain)
    found = list(keys(yaml.compose("".join(lines))))
    assert len(found) > 40
    for number, key in enumerate(found):
        wrong = [w for w in misspellings(key.word) if w and w not in key.siblings]
        word = wrong[number % len(wrong)]
        line = lines[key.line]
        assert line[key.column :].startswith(key.word)
        changed = line[: key.column] + word + line[key.column + len(key.word) :]
        path = tmp_path / "wrong.yaml"
        path.write_text("".join([*lines[: key.line], changed, *lines[key.line + 1 :]]), encoding="utf-8")
        with pytest.raises(RecipeError) as caught:
            load_recipe(path, plain)
        said = str(caught.value).splitlines()
        assert len(said) == 1, (key, word, said)
        assert said[0].startswith(f"{path}:{key.line + 1}: "), (key, word, said)
        assert re.search(rf"(\.|: ){re.escape(word)}: unknown key -- did you mean .*'{key.word}'", said[0]), (key, said)
