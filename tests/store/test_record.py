"""What is believed of a run.json."""

from __future__ import annotations

from gaekit.recipe.schema import Recipe, StageSection
from gaekit.stages import STAGES
from gaekit.store.record import STAGE_NAMES


def test_the_stages_that_a_record_may_have_are_those_of_recipes_and_runs() -> None:
    sections = [
        name
        for name, field in Recipe.model_fields.items()
        for kind in getattr(field.annotation, "__args__", (field.annotation,))
        if isinstance(kind, type) and issubclass(kind, StageSection)
    ]
    assert list(dict.fromkeys(sections)) == list(STAGE_NAMES) == [stage.name for stage in STAGES]
