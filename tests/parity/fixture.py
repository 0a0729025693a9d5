"""A fixture file: numbers of a published implementation, and what it takes to make them again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drawn_weights import drawn
from safetensors import safe_open
from torch import Tensor

Tensors = dict[str, Tensor]
Recompute = Callable[[str], Tensor]
"""From the name of an output to gaekit's; raises UnknownOutput for a name that it does not know."""


class UnknownOutput(Exception):
    """An output, or a setting of it, that the check cannot recompute."""


@dataclass(frozen=True)
class Fixture:
    """`config` of the file's metadata, and its tensors without their prefixes `state.`, `in.` and `out.`"""

    path: Path
    config: dict[str, Any]
    state: Tensors
    inputs: Tensors
    outputs: Tensors

    @property
    def kind(self) -> str:
        return str(self.config["kind"])

    def given(self, *names: str) -> list[Tensor]:
        """Inputs by name. Raises UnknownOutput where one is not there."""
        if missing := [name for name in names if name not in self.inputs]:
            raise UnknownOutput(f"the file has no in.{', in.'.join(missing)}")
        return [self.inputs[name] for name in names]


def read_fixture(path: Path) -> Fixture:
    groups: dict[str, Tensors] = {"state": {}, "in": {}, "out": {}}
    with safe_open(path, framework="pt") as file:
        config = json.loads(file.metadata()["config"])
        for key in file.keys():  # noqa: SIM118 -- the file is no mapping
            group, _, rest = key.partition(".")
            groups[group][rest] = file.get_tensor(key)
    return Fixture(path, config, groups["state"] or drawn(config.get("drawn", {})), groups["in"], groups["out"])
