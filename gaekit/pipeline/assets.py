"""The files that a recipe needs from outside, by stage: found, or fetched, before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gaekit.api import Asset, LocalFile
from gaekit.api.assets import FETCHING, PublishedAsset, State, go_offline, is_offline
from gaekit.errors import ArtifactError
from gaekit.pipeline.components import Found, in_artifact, in_parts, within
from gaekit.pipeline.plan import Plan, make_plan, needed_stages
from gaekit.plugins import Registry
from gaekit.recipe.schema import Autoencoder, Diffusion, From, Recipe
from gaekit.stages import autoencoder
from gaekit.stages.data import Data
from gaekit.stages.stage import Stage
from gaekit.store.artifact import resolve

_ARTIFACT_HINT = "give the path of a run, of a stage's folder in it, or of an artifact; `gaekit import` makes one"


@dataclass(frozen=True)
class Need:
    """An asset, and who needs it: `stage` is where, `owner` what (teacher 'dinov2', autoencoder.from).

    Without those that are `planned`, there is no telling what is cached.
    """

    stage: str
    owner: str
    asset: Asset
    planned: bool = True


def find_needs(recipe: Recipe, registry: Registry, until: str | None = None) -> list[Need]:
    """What the stages of a recipe need, in order. Raises GaekitError where settings name what nobody publishes."""
    needs: dict[Need, None] = {}
    for stage in needed_stages(recipe, until):
        needs |= dict.fromkeys(_of_stage(stage, recipe, registry))
    return list(needs)


def _of_stage(stage: Stage, recipe: Recipe, registry: Registry) -> Iterator[Need]:
    section, train = stage.section(recipe), stage.training(recipe)
    if isinstance(section, From):
        yield _artifact(stage, f"{stage.name}.from", section.path)
        return
    if train is not None and train.init is not None:
        yield replace(_artifact(stage, f"{stage.name}.train.init", train.init), planned=False)
    for external in stage.external(recipe).values():
        yield replace(_artifact(external.stage, external.key, str(external.path)), stage=stage.name)
    for kind, config in _components(stage, recipe, registry):
        cls = registry.find(kind, config.use)
        for asset in cls.assets(config):
            yield Need(stage.name, f"{kind} '{config.use}'", asset)


def _artifact(stage: Stage, key: str, path: str) -> Need:
    what = f"artifact of the stage {stage.name}"
    return Need(stage.name, key, LocalFile(what, str(Path(path).expanduser()), _ARTIFACT_HINT, folders=True))


def _components(stage: Stage, recipe: Recipe, registry: Registry) -> Iterator[Found]:
    """(kind, config) of every component that a stage builds."""
    aligner: Any = registry.find("aligner", recipe.aligner.use)
    parts = stage.parts(recipe)
    yield from in_parts({k: value for k, value in parts.items() if k != "teacher" or aligner.needs_teacher})
    if isinstance(section := stage.section(recipe), Autoencoder | Diffusion):
        yield from within("", section.probe)
    if stage.reads_data:
        yield from within("dataset", recipe.dataset)
    if autoencoder.STAGE.name in stage.needs:
        yield from _of_autoencoder(recipe, registry)


def _of_autoencoder(recipe: Recipe, registry: Registry) -> Iterator[Found]:
    """What an autoencoder consists of that later stages load; nothing where its artifact is not there yet."""
    section = recipe.autoencoder
    if isinstance(section, Autoencoder):
        for kind in ("encoder", "decoder", "regularizer"):
            yield from within(kind, getattr(section, kind))
    elif Path(section.path).expanduser().exists():
        path = resolve(Path(section.path), autoencoder.STAGE.name, autoencoder.STAGE.artifact)
        yield from in_artifact(autoencoder.STAGE, path, registry)


def prepare_assets(
    recipe: Recipe,
    registry: Registry,
    store: Path,
    say: Callable[[str], None],
    *,
    data: Data | None = None,
    processes: int = 1,
    offline: bool = False,
    until: str | None = None,
    redo: str | None = None,
) -> None:
    """See that what the stages that are not cached need is there; fetch what is published.

    If `offline`, or with HF_HUB_OFFLINE set, nothing is fetched, from here on neither: contents are checked against
    their hashes, and an ArtifactError names every file that is absent or damaged. Without, one names those that
    cannot be fetched.
    """
    if offline:
        go_offline()
    cut_off = is_offline()
    states = _states(find_needs(recipe, registry, until), thorough=cut_off)
    lacking = [need for need, state in states.items() if state != "present"]
    if any(isinstance(need.asset, LocalFile) and need.planned for need in lacking):
        raise absent_error(states)
    if lacking:
        plan = make_plan(recipe, registry, store, data=data, until=until, need_data=True, processes=processes)
        running = _running(plan, redo)
        states = {need: state for need, state in states.items() if need.stage in running}
        lacking = [need for need in lacking if need.stage in running]
    if any(cut_off or isinstance(need.asset, LocalFile) for need in lacking):
        raise absent_error(states)
    fetch_all(lacking, say)


def _running(plan: Plan, redo: str | None) -> set[str]:
    """The stages that are neither cached nor taken from elsewhere."""
    stages = plan.stages
    names = [stage.name for stage in stages]
    again = set(names[names.index(redo) :]) if redo in names else set()
    return {s.name for s in stages if s.room is not None and (s.status != "cached" or s.name in again)}


def fetch_all(needs: Iterable[Need], say: Callable[[str], None]) -> None:
    """Fetch the assets of all, each once, telling each. Raises GaekitError for the first that cannot be had."""
    owners = {need.asset: need.owner for need in reversed(list(needs))}
    for asset, owner in reversed(owners.items()):
        say(f"fetching {asset.what}: {asset.source}")
        asset.fetch(owner)


def discard_damaged(states: dict[Need, State]) -> None:
    """Remove what is damaged and can be fetched anew."""
    damaged = {need.asset for need, state in states.items() if state == "damaged"}
    for asset in damaged:
        if isinstance(asset, PublishedAsset):
            asset.discard()


def states_of(needs: Iterable[Need]) -> dict[Need, State]:
    """How each is: there and whole, absent or damaged. Reads all that is there."""
    return _states(needs, thorough=True)


def _states(needs: Iterable[Need], *, thorough: bool) -> dict[Need, State]:
    found: dict[Asset, State] = {}
    states: dict[Need, State] = {}
    for need in needs:
        if need.asset not in found:
            found[need.asset] = need.asset.check() if thorough else "present" if need.asset.find() else "absent"
        states[need] = found[need.asset]
    return states


def _line(need: Need, state: State) -> str:
    asset = need.asset
    if isinstance(asset, PublishedAsset):
        return f"{state}: {asset.place}: {asset.what}, for {need.owner}"
    return f"{asset.place}: no {asset.what} there, for {need.owner}; {asset.mend}"


def absent_error(states: dict[Need, State]) -> ArtifactError:
    """Names every file that is absent or damaged, a line each, and what to do."""
    lines: dict[Asset, str] = {}
    for need, state in states.items():
        if state != "present":
            lines.setdefault(need.asset, _line(need, state))
    told = list(lines.values())
    if any(isinstance(asset, PublishedAsset) for asset in lines):
        told.append(f"{FETCHING}, where there is a network, fetches what is published")
    count = "a file that this recipe needs is" if len(lines) == 1 else f"{len(lines)} files that this recipe needs are"
    return ArtifactError("\n  ".join([f"{count} not here, or not whole:", *told]))
