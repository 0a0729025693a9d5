"""The YAML of recipes: numbers and words of YAML 1.2, lines, duplicate keys, variables."""

from __future__ import annotations

from typing import Any

import pytest

from gaekit.errors import Problem, RecipeError
from gaekit.recipe.document import read_document, read_value


def data(text: str) -> Any:
    document = read_document(text, "x.yaml")
    assert not document.problems
    return document.data


def lines(text: str) -> list[str]:
    document = read_document(text, "x.yaml")
    return [f"{p.line}: {p.dotted}: {p.text}" for p in map(document.locate, document.problems)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 100_000),
        ("2e5", 200_000),
        ("2.5e1", 25),
        ("2.5e0", 2.5),
        ("-1.5", -1.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("+3", 3),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2026-01-02", "2026-01-02"),
        (".inf", float("inf")),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("No", "No"),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ('"1e-4"', "1e-4"),
        ("'true'", "true"),
        ("!!str 12", "12"),
    ],
)
def test_words_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    found = data(f"a: {text}")["a"]
    assert found == value
    assert type(found) is type(value)


def test_nan_is_a_number() -> None:
    found = data("a: .nan")["a"]
    assert found != found


def test_big_integral_floats_stay_floats() -> None:
    assert isinstance(data("a: 1e300")["a"], float)


def test_keys_are_text_whatever_they_look_like() -> None:
    assert data("1: a\ntrue: b\non: c") == {"1": "a", "true": "b", "on": "c"}


def test_anchors_are_values_again() -> None:
    assert data("a: &x {b: 1}\nc: *x") == {"a": {"b": 1}, "c": {"b": 1}}


def test_an_alias_of_what_it_stands_in_is_refused() -> None:
    assert lines("a: &x\n  b: *x") == ["2: a.b: '*alias' refers to what it stands in (line 1)"]


def test_a_key_given_twice_names_both_lines() -> None:
    assert lines("a:\n  b: 1\n  c: 2\n  b: 3") == ["4: a.b: key given twice, first on line 2"]


def test_other_things_that_recipes_cannot_hold() -> None:
    assert lines("a: !!python/object:os.system ls") == ["1: a: the tag !!python/object:os.system has no meaning here"]
    assert lines("a: !!int many") == ["1: a: 'many' is not a int"]
    assert lines("? [a, b]\n: 1") == ["1: : a key is a single word, not a list or a mapping"]
    (merge,) = lines("a: &x {b: 1}\nc:\n  <<: *x")
    assert merge.startswith("3: c.<<: merge keys are not part of YAML 1.2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.yaml:1: the recipe is empty"),
        ("# nothing\n", "x.yaml:1: the recipe is empty"),
        ("- a\n", "x.yaml:1: a recipe is a mapping of keys to values, this is a list"),
        ("word", "x.yaml:1: a recipe is a mapping of keys to values, this is a single value"),
        ("a: 1\nb:\n\tc: 2", "x.yaml:3: not valid YAML: a tab cannot indent in YAML; use spaces"),
        ("a: 1\nb: [1, 2\n", "x.yaml:3: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("a: 1\n b: 2", "x.yaml:2: not valid YAML: mapping values are not allowed"),
        ("a: *b", "x.yaml:1: not valid YAML: found undefined alias"),
        ("a: 1\n---\nb: 2", "x.yaml:2: not valid YAML: but found another document"),
        ("a: \x07", "x.yaml:1: not valid YAML: special characters are not allowed"),
    ],
)
def test_broken_yaml_has_its_line_and_no_traceback(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_document(text, "x.yaml")
    assert str(caught.value).startswith(message)


def test_variables_are_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAEKIT_HERE", "/data")
    monkeypatch.setenv("GAEKIT_EMPTY", "")
    monkeypatch.delenv("GAEKIT_GONE", raising=False)
    text = """
root: "${GAEKIT_HERE}/train"
plain: ${GAEKIT_HERE}/val
default: "${GAEKIT_GONE:-data/imagenet}/train"
empty: "${GAEKIT_EMPTY:-other}"
nothing: "x${GAEKIT_EMPTY}y"
literal: "$${GAEKIT_HERE} costs $5"
number: ${GAEKIT_GONE:-1e3}
quoted: "${GAEKIT_GONE:-1e3}"
"""
    assert data(text) == {
        "root": "/data/train",
        "plain": "/data/val",
        "default": "data/imagenet/train",
        "empty": "other",
        "nothing": "xy",
        "literal": "${GAEKIT_HERE} costs $5",
        "number": 1000,
        "quoted": "1e3",
    }


def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GAEKIT_GONE", raising=False)
    assert lines('a: 1\nroot: "${GAEKIT_GONE}/x"') == [
        "2: root: the environment variable GAEKIT_GONE is not set; set it, or give a default: ${GAEKIT_GONE:-default}"
    ]


@pytest.mark.parametrize("text", ["${}", "${A B}", "${A", "${1}"])
def test_a_malformed_variable_is_refused(text: str) -> None:
    (line,) = lines(f'root: "{text}"')
    told = "'${' begins a variable: ${NAME} or ${NAME:-default}; a literal '${' is '$${'"
    assert line == f"1: root: '{text}': {told}"


def test_a_problem_is_placed_at_the_nearest_key_above() -> None:
    document = read_document("a:\n  b:\n    - c: 1\n    - c: 2\n", "x.yaml")
    assert document.locate(Problem(("a", "b", 1, "c"), "")).line == 4
    assert document.locate(Problem(("a", "b", 1, "missing"), "")).line == 4
    assert document.locate(Problem(("a", "missing"), "")).line == 1
    assert document.locate(Problem(("missing",), "")).line == 1


def test_a_value_of_the_command_line_is_yaml_too() -> None:
    assert read_value("{use: constant, level: 1e-1}") == ({"use": "constant", "level": 0.1}, [])
    assert read_value("") == (None, [])
    assert read_value("[1")[1][0].text.startswith("not valid YAML")


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("a: 1\nb: " + "[" * 50_000, 2, "values lie more than 64 deep within each other"),
        ("a: " + "{b: " * 50_000, 1, "values lie more than 64 deep within each other"),
        ("\n".join(" " * depth + "a:" for depth in range(1_000)), 65, "values lie more than 64 deep"),
        ("- " * 50_000, 1, "values lie more than 64 deep within each other"),
        (
            "a0: &a0 [x, x]\n" + "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 60)),
            6,
            "holds more than 100,000 values, once each '*alias' is what it stands for",
        ),
        (
            "a0: &a0 [x]\n" + "\n".join(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 5_000)),
            64,
            "holds more than 64 levels, once each '*alias' is what it stands for",
        ),
    ],
)
def test_what_would_take_all_memory_is_refused_with_its_line(text: str, line: int, told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_document(text, "x.yaml")
    assert str(caught.value).startswith(f"x.yaml:{line}: {told}")
    assert read_value(text)[1][0].text.startswith(told)


@pytest.mark.parametrize(
    "text",
    [
        "https://other.example/?k=${GAEKIT_SECRET}",
        "https://${GAEKIT_SECRET}/x",
        "https://${GAEKIT_SECRET:-none}/x",
        "${GAEKIT_GONE:-https://other.example}/${GAEKIT_SECRET}",
        "${GAEKIT_OWN}.other.example/x",
        "${GAEKIT_OWN}@other.example/x",
        "${GAEKIT_OWN}/${GAEKIT_SECRET}",
        "htt{p:/,p:/}/other.example/${GAEKIT_SECRET}",
        "ftp://other.example/${GAEKIT_SECRET}",
    ],
)
def test_an_address_takes_no_variable_of_the_environment_along(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAEKIT_SECRET", "token")
    monkeypatch.setenv("GAEKIT_OWN", "https://user:password@own.example")
    monkeypatch.delenv("GAEKIT_GONE", raising=False)
    (line,) = lines(f'a: 1\nshards: "{text}"')
    name = "GAEKIT_SECRET" if "SECRET" in text else "GAEKIT_OWN"
    assert line.startswith(f"2: shards: '{text}' would send the environment variable {name} to the address that")
    assert "token" not in line


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${GAEKIT_OWN}", "https://own.example/data"),
        ("${GAEKIT_OWN}/{000..009}.tar", "https://own.example/data/{000..009}.tar"),
        ("https://own.example/${GAEKIT_DATA_URL}/x", "https://own.example/here/x"),
        ("${GAEKIT_GONE:-https://own.example}/x", "https://own.example/x"),
        ("${GAEKIT_PLACE}/{000..009}.tar", "/data/{000..009}.tar"),
        ("${GAEKIT_PLACE}:1", "/data:1"),
    ],
)
def test_an_address_of_ones_own_is_filled_in(text: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"OWN": "https://own.example/data", "DATA_URL": "here", "PLACE": "/data"}
    for name, content in given.items():
        monkeypatch.setenv(f"GAEKIT_{name}", content)
    monkeypatch.delenv("GAEKIT_GONE", raising=False)
    assert data(f'a: "{text}"') == {"a": value}
