"""A section as what decides its results: the form that fingerprints hash."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python


def canonical(value: Any) -> Any:
    """`value` as sorted, JSON-able data, without the fields that stand at their declared neutral value.

    So a new field that does nothing by default leaves every fingerprint as it was.
    """
    if isinstance(value, BaseModel):
        kept = {
            info.alias or name: canonical(getattr(value, name))
            for name, info in type(value).model_fields.items()
            if not is_neutral(info, getattr(value, name))
        }
        return dict(sorted(kept.items()))
    if isinstance(value, dict):
        return {str(key): canonical(item) for key, item in sorted(value.items(), key=lambda pair: str(pair[0]))}
    if isinstance(value, tuple | list):
        return [canonical(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((canonical(item) for item in value), key=str)
    return to_jsonable_python(value)


def is_neutral(info: FieldInfo, value: Any) -> bool:
    """Whether a field stands at the value at which it does nothing (`gaekit.recipe.schema.neutral`)."""
    extra = info.json_schema_extra
    return isinstance(extra, dict) and "neutral" in extra and value == extra["neutral"]
