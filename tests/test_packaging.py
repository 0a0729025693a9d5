"""What pyproject.toml declares is all that an installed gaekit needs."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_every_package_is_declared() -> None:
    found = {
        ".".join(file.parent.relative_to(source).parts)
        for source in (ROOT, ROOT / "plugins")
        for top in source.glob("gaekit*")
        for file in top.rglob("__init__.py")
    }
    assert found | {"gaekit.recipes"} == set(DECLARED["packages"])


def test_every_file_beside_the_code_is_declared() -> None:
    folders = {name: ROOT / name.replace(".", "/") for name in DECLARED["packages"] if name.startswith("gaekit.")}
    folders |= {name: ROOT / folder for name, folder in DECLARED["package-dir"].items()}
    declared = {
        file
        for name, patterns in DECLARED["package-data"].items()
        for pattern in patterns
        for file in folders[name].glob(pattern)
    }
    beside = {
        file
        for folder in (ROOT / "gaekit", ROOT / "recipes")  # recipes, sweeps and reference curves
        for file in folder.rglob("*")
        if file.is_file() and file.suffix not in (".py", ".pyc") and "__pycache__" not in file.parts
    }
    assert beside <= declared, sorted(map(str, beside - declared))
