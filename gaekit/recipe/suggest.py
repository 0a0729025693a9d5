"""What a person may have meant by a misspelt word."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable


def one_edit_apart(word: str, other: str) -> bool:
    """Whether one letter replaced, left out, put in, or swapped with its neighbour turns `word` into `other`."""
    short, long = sorted((word, other), key=len)
    if len(long) - len(short) > 1 or short == long:
        return False
    same = next((i for i, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    if len(short) < len(long):
        return short[same:] == long[same + 1 :]
    swapped = short[same : same + 2] == long[same : same + 2][::-1] and short[same + 2 :] == long[same + 2 :]
    return swapped or short[same + 1 :] == long[same + 1 :]


def near(word: str, *choices: Iterable[str]) -> list[str]:
    """The words of `choices` (groups, the likeliest first) that `word` stands for; all of them where several are
    as near. One edit comes before difflib's likeness, which misses short words."""
    groups = [sorted(set(group) - {word}) for group in choices]
    for group in groups:
        if found := _same_letters(group, word) or [c for c in group if one_edit_apart(word, c)]:
            return found
    for group in groups:
        if found := difflib.get_close_matches(word, group, n=1):
            return found
    return []


def _same_letters(group: Collection[str], word: str) -> list[str]:
    """Words that differ from `word` by capitals, dashes and spaces alone."""
    plain = _plain(word)
    return [choice for choice in group if _plain(choice) == plain]


def _plain(word: str) -> str:
    return word.casefold().replace("-", "").replace("_", "").replace(" ", "")


def did_you_mean(words: Collection[str]) -> str:
    """The end of a message: ` -- did you mean 'steps'?`, or nothing."""
    return f" -- did you mean {' or '.join(repr(w) for w in words)}?" if words else ""


def hint(word: str, known: Collection[str]) -> str:
    """The end of a message about an unknown word: what is near, or else all that is known."""
    return did_you_mean(near(word, known)) or f" -- known: {', '.join(sorted(known)) or 'none'}"
