"""Short, readable names of settings: `depth_2-scale_1.5`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gaekit.recipe.overrides import parse_key
from gaekit.store.files import sha256_json

LONGEST = 44
"""Characters of a label: with a sweep's name before it and a seed behind, a run's name has a hundred."""
BASE = "base"
"""A setting without changes."""
_WORD = 24
_DIGITS = 6


def counted(number: int, what: str) -> str:
    """How many there are of something: 1 run, 2 runs."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """By key, the shortest of its endings that tells it from the others: `lr`, or `diffusion.train.lr` where the
    autoencoder's is swept too. `use` at the end goes: `autoencoder.noise.use` is `noise`."""
    parts = {key: _parts(key) for key in keys}
    return {key: _shortest(parts[key], [other for name, other in parts.items() if name != key]) for key in keys}


def _parts(key: str) -> tuple[str, ...]:
    path = tuple(map(str, parse_key(key)))
    return path[:-1] if path[-1] == "use" and len(path) > 1 else path


def _shortest(path: tuple[str, ...], others: Sequence[tuple[str, ...]]) -> str:
    for length in range(1, len(path) + 1):
        ending = path[-length:]
        if not ending[0].isdigit() and all(other[-length:] != ending for other in others):
            return ".".join(ending)
    return ".".join(path)


def label(changes: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """What a setting is called after its changes; `names` are those of `short_names`."""
    text = "-".join(f"{names[key]}_{_word(value)}" for key, value in changes.items()) or BASE
    return text if len(text) <= LONGEST else told_apart(text, changes)


def told_apart(text: str, changes: Mapping[str, Any]) -> str:
    """A label with some digits of the hash of its changes at its end, where it is too long, or another is alike."""
    digits = sha256_json(json.loads(json.dumps(dict(changes))))[:_DIGITS]
    return f"{text[: LONGEST - _DIGITS - 1].rstrip('-._')}-{digits}"


def _word(value: Any) -> str:
    """A value in letters that a folder's name may have."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return json.dumps(value).replace("+", "")
    text = "-".join(_leaves(value))
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")[:_WORD].rstrip("-.") or "empty"


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value if isinstance(value, str) else json.dumps(value)
