"""A recipe back as data and as YAML, with every default written out; loading it again gives an equal recipe."""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import BaseModel

from gaekit.recipe.document import CORE_SCHEMA


def dump(section: BaseModel) -> dict[str, Any]:
    """A recipe, a section or a component's config as plain data, under the keys of the file."""
    return section.model_dump(mode="json", by_alias=True)


def to_yaml(section: BaseModel) -> str:
    """The same as YAML, with `${` escaped, as its variables are already filled in."""
    return yaml.dump(_escaped(dump(section)), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120,
                     default_flow_style=None)  # fmt: skip


def _escaped(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return value.replace("${", "$${") if isinstance(value, str) else value


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.2 would not read as text, and repeats rather than anchors."""

    yaml_implicit_resolvers = CORE_SCHEMA

    def ignore_aliases(self, data: Any) -> bool:
        return True
