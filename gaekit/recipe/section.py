"""What the sections of recipes are made of."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(gt=0, le=10**9)]


def neutral(value: Any, **keywords: Any) -> Any:
    """A field whose default does nothing: at that value it is left out of fingerprints, so that adding the field to
    the schema orphans no room of before."""
    return Field(default=value, json_schema_extra={"neutral": value}, **keywords)


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())
