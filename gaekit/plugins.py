"""Finding plugins and building components.

`load_plugins()` gives a fresh `Registry`; nothing happens at import. A plugin that fails is noted, and stops
nothing but a recipe that needs it.
"""

from __future__ import annotations

import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

import pluggy

from gaekit import hookspecs
from gaekit.api import API_VERSION, KINDS, Component, ComponentConfig, Dataset, Slot
from gaekit.errors import PluginError
from gaekit.guard import ImagePromise, guard

ENTRY_POINT_GROUP = "gaekit"
OWN = "gaekit"
"""The distribution whose plugins are gaekit's own."""
UNKNOWN = "?"
"""Distribution and version of a plugin whose metadata names none."""
C = TypeVar("C", bound=Component)


@dataclass
class Plugin:
    """One entry point: where it comes from, what it provides, what others provide too (`clashes`), and its `error` if
    it could not be used."""

    name: str
    distribution: str
    version: str
    module: str
    api: int | None = None
    components: list[str] = field(default_factory=list)
    clashes: list[str] = field(default_factory=list)
    error: str | None = None
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.name} ({self.distribution} {self.version})"


@dataclass
class Registry:
    """The components known by (kind, name), the plugins they come from, those that are broken, and the names that
    several provide (`clashes`): of these there is none.

    `recorded`: by (kind, name), the "distribution==version" that provided a component when a run was made, which is
    named where it is absent here.
    """

    plugins: list[Plugin] = field(default_factory=list)
    classes: dict[str, dict[str, type[Component]]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    origin: dict[tuple[str, str], Plugin] = field(default_factory=dict)
    clashes: dict[tuple[str, str], list[Plugin]] = field(default_factory=dict)
    recorded: Mapping[tuple[str, str], str] = field(default_factory=dict)

    @property
    def broken(self) -> list[Plugin]:
        """Plugins that failed to load."""
        return [plugin for plugin in self.plugins if plugin.error]

    @property
    def notes(self) -> str:
        """A line for each broken plugin, to end a message about a name that nobody provides."""
        return "".join(f"\n  note: plugin {plugin} failed to load: {plugin.error}" for plugin in self.broken)

    def clash(self, kind: str, name: str) -> str | None:
        """What to say of a name that several plugins provide; None of any other."""
        plugins = self.clashes.get((kind, name))
        if plugins is None:
            return None
        foreign = [plugin for plugin in plugins if plugin.distribution != OWN]
        without = " or ".join(f"GAEKIT_PLUGINS=-{plugin.name}" for plugin in foreign)
        providers = " and by ".join(f"plugin {plugin}" for plugin in plugins)
        return f"{kind} '{name}' is provided by {providers}; leave one out by {without}, or uninstall it"

    def find(self, kind: str, name: str) -> type[Component]:
        """The class behind `use: name`. Raises PluginError with the known names and the broken plugins, or with those
        that provide it where these are several."""
        try:
            return self.classes[kind][name]
        except KeyError:
            if clash := self.clash(kind, name):
                raise PluginError(clash) from None
            if (now := self.renamed(kind, name)) is not None:
                raise PluginError(f"unknown {kind} '{name}'; it is called '{now}' now") from None
            if (home := self.recorded.get((kind, name))) is not None:
                raise PluginError(
                    f"{kind} '{name}' is not installed here; the run was made with that of {home.replace('==', ' ')}: "
                    f"pip install '{home}'{self.notes}"
                ) from None
            known = ", ".join(sorted(self.classes.get(kind, {}))) or "none"
            raise PluginError(f"unknown {kind} '{name}'; known: {known}{self.notes}") from None

    def renamed(self, kind: str, name: str) -> str | None:
        """The present name of a component that once had this one."""
        return next((cls.name for cls in self.classes.get(kind, {}).values() if name in cls.former_names), None)

    def owner(self, kind: str, name: str) -> str:
        """How messages name a component and its plugin."""
        return f"{kind} '{name}' of plugin {self.origin[kind, name]}"

    def image_promise(self, dataset: str, classes: int) -> ImagePromise:
        """What the images of this data set are held to."""
        plugin = self.origin[Dataset.kind, dataset]
        return ImagePromise(self.owner(Dataset.kind, dataset), classes, plugin.distribution != OWN)

    def add(self, cls: type[Component], plugin: Plugin) -> None:
        """Take in one class; what another plugin provides too is nobody's from then on. Raises PluginError for an
        incomplete class, and for a name that the plugin itself provides twice."""
        _check_registrable(cls)
        key, text = (cls.kind, cls.name), f"{cls.kind}:{cls.name}"
        others = self.clashes.get(key) or [self.origin[key]] if key in self.clashes or key in self.origin else []
        if any((other.name, other.module) == (plugin.name, plugin.module) for other in others):
            raise PluginError(f"gives two components of the name {cls.kind} '{cls.name}'")
        if not others:
            self.classes[cls.kind][cls.name], self.origin[key] = cls, plugin
            plugin.components.append(text)
            return
        if key in self.origin:
            del self.classes[cls.kind][cls.name], self.origin[key]
            others[0].components.remove(text)
            others[0].clashes.append(text)
        self.clashes[key] = [*others, plugin]
        plugin.clashes.append(text)


def _check_registrable(cls: Any) -> None:
    """What can only be told of the finished class; the rest is checked when it is defined."""
    if not (isinstance(cls, type) and issubclass(cls, Component)):
        raise PluginError(f"gaekit_components gives {cls!r}, which is no component class")
    where = f"component {cls.__module__}.{cls.__qualname__}"
    if not hasattr(cls, "name"):
        raise PluginError(f"{where}: has no name")
    if not issubclass(cls, KINDS.get(cls.kind, type(None))):
        raise PluginError(f"{where}: derive it from one of the kinds of gaekit.api: {', '.join(sorted(KINDS))}")
    if missing := ", ".join(sorted(getattr(cls, "__abstractmethods__", ()))):
        raise PluginError(f"{where} ({cls.kind} '{cls.name}') does not define: {missing}")
    for name, kind in slots(cls.Config).items():
        if kind not in KINDS:
            raise PluginError(f"{where}: Config.{name} has a slot for '{kind}'; kinds: {', '.join(sorted(KINDS))}")


def load_plugins() -> Registry:
    """Load every entry point of the group `gaekit` in the order of their names, each guarded.

    `GAEKIT_PLUGINS=a,b` loads these alone, `GAEKIT_PLUGINS=-a,-b` all but these. Faults go to `registry.broken`, names
    that several provide to `registry.clashes`. Raises PluginError where GAEKIT_PLUGINS names what is not installed.
    """
    manager = pluggy.PluginManager("gaekit")
    manager.add_hookspecs(hookspecs)
    registry = Registry()
    for entry in _chosen_entry_points():
        _load_one(entry, manager, registry)
    return registry


def _chosen_entry_points() -> list[EntryPoint]:
    found = sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda e: (e.name, e.value))
    limit = os.environ.get("GAEKIT_PLUGINS")
    if limit is None:
        return found
    words = {name.strip() for name in limit.split(",") if name.strip()}
    without = {word[1:] for word in words if word.startswith("-")}
    wanted = {word for word in words if not word.startswith("-")}
    if unknown := (wanted | without) - {e.name for e in found}:
        raise PluginError(f"GAEKIT_PLUGINS names unknown plugins: {', '.join(sorted(unknown))}; "
                          f"installed: {', '.join(e.name for e in found)}")  # fmt: skip
    limited = bool(wanted) or not words
    return [e for e in found if e.name not in without and (e.name in wanted or not limited)]


def _load_one(entry: EntryPoint, manager: pluggy.PluginManager, registry: Registry) -> None:
    distribution = entry.dist.name if entry.dist else UNKNOWN
    version = entry.dist.version if entry.dist else UNKNOWN
    plugin = Plugin(entry.name, distribution, version, entry.value)
    registry.plugins.append(plugin)
    start = time.perf_counter()
    try:
        with warnings.catch_warnings(), redirect_stdout(sys.stderr):  # stdout belongs to the command
            warnings.simplefilter("ignore")  # other people's deprecations are not for the user of a recipe
            classes = _collect(entry, plugin, manager)
    except (Exception, SystemExit) as error:  # a plugin may do anything; only Ctrl-C passes
        plugin.error = _describe(error)
        classes = []
    plugin.seconds = time.perf_counter() - start
    for cls in classes:
        registry.add(cls, plugin)


def _describe(error: BaseException) -> str:
    """One line: the kind of error, unless it is our own, and what it says."""
    text = " ".join(str(error).split())
    return (
        text if isinstance(error, PluginError) else f"{type(error).__name__}: {text}" if text else type(error).__name__
    )


def _collect(entry: EntryPoint, plugin: Plugin, manager: pluggy.PluginManager) -> list[type[Component]]:
    """The classes of one plugin, checked. Raises whatever the plugin raises, and PluginError."""
    module = entry.load()
    plugin.api = getattr(module, "GAEKIT_API", API_VERSION)
    if not isinstance(plugin.api, int) or plugin.api > API_VERSION:
        raise PluginError(
            f"needs version {plugin.api} of gaekit's API, this gaekit has {API_VERSION}: "
            f"upgrade gaekit, or use an older plugin"
        )
    manager.register(module, name=entry.name)
    try:
        manager.check_pending()
        found: list[type[Component]] | None = _hook(module, manager)()
        if found is None:
            raise PluginError("gaekit_components returns None; return the component classes")
        classes = list(found)
        trial = Registry()
        for cls in classes:
            trial.add(cls, plugin=replace(plugin, components=[]))
    except (Exception, SystemExit):
        manager.unregister(module)
        raise
    return classes


def _hook(module: Any, manager: pluggy.PluginManager) -> Callable[..., Any]:
    for implementation in manager.hook.gaekit_components.get_hookimpls():
        if implementation.plugin is module:
            return implementation.function
    raise PluginError("has no function gaekit_components marked with gaekit.api.hookimpl")


def build(base: type[C], config: ComponentConfig, registry: Registry, **sizes: Any) -> C:
    """The component that `config.use` names, of the kind of `base`, with the sizes of that kind as keywords.

    Slots of its config arrive as factories under the field's name, to be called with the sizes of the inner kind. Its
    first answers are looked at (`gaekit.guard`). Raises PluginError where it cannot be called with these.
    """
    component = construct(base, config, registry, **sizes)
    guard(component, registry.owner(base.kind, config.use))
    return component


def construct(base: type[C], config: ComponentConfig, registry: Registry, **sizes: Any) -> C:
    """As `build`, without looking at what it answers."""
    cls, factories = registry.find(base.kind, config.use), _factories(config, registry)
    try:
        with _naming(config):
            return cls(config, **sizes, **factories)  # type: ignore[return-value,call-arg]
    except TypeError as error:
        if error.__traceback__ is None or error.__traceback__.tb_next is not None:  # raised inside of it
            raise
        given = ", ".join([*sizes, *factories])
        owner = registry.owner(base.kind, config.use)
        raise PluginError(f"{owner}: its constructor must take (config, *, {given}): {error}") from error


@contextmanager
def _naming(config: ComponentConfig) -> Iterator[None]:
    """Note on an error which component was being built: the innermost."""
    try:
        yield
    except Exception as error:
        if config_of(error) is None:
            error._gaekit_config = config  # type: ignore[attr-defined]
        raise


def config_of(error: BaseException) -> ComponentConfig | None:
    """The config of the component whose constructor raised an error, if one did."""
    found = getattr(error, "_gaekit_config", None)
    return found if isinstance(found, ComponentConfig) else None


def _factories(config: ComponentConfig, registry: Registry) -> dict[str, Any]:
    factories: dict[str, Any] = {}
    for name, kind in slots(type(config)).items():
        value = getattr(config, name)
        make = partial(_factory, KINDS[kind], registry)
        if isinstance(value, tuple):
            factories[name] = tuple(make(item) for item in value)
        else:
            factories[name] = None if value is None else make(value)
    return factories


def _factory(base: type[Component], registry: Registry, config: ComponentConfig) -> Callable[..., Component]:
    return partial(build, base, config, registry)


ABBREVIATED = re.compile(
    r"\b(et al|e\.g|i\.e|cf|vs|approx|resp|figs?|tabs?|eqs?|secs?|nos?|refs?|(?-i:[A-Z]))$", re.IGNORECASE
)
"""What a full stop may follow without ending a sentence: usual abbreviations, and initials of names."""


def summary(cls: type[Component]) -> str:
    """One line about a component: the first sentence of its docstring."""
    paragraph = " ".join((cls.__doc__ or "").strip().split("\n\n")[0].split())
    for stop in re.finditer(r"\. ", paragraph):
        before = paragraph[: stop.start()]
        opened, closed = (sum(before.count(mark) for mark in marks) for marks in ("([", ")]"))  # [0, 1) is whole too
        if opened <= closed and not ABBREVIATED.search(before):
            return before + "."
    return paragraph.rstrip(".") + "."


def slots(model: type[Any]) -> dict[str, str]:
    """The fields of a pydantic model that hold components, and their kinds."""
    found = {}
    for name, info in model.model_fields.items():
        for mark in info.metadata:
            if isinstance(mark, Slot):
                found[name] = mark.kind
    return found


def nested(config: Any) -> Iterable[tuple[str, ComponentConfig]]:
    """(kind, config) of every component below a section or component config, depth first."""
    marked = slots(type(config))
    for name in type(config).model_fields:
        value = getattr(config, name)
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, ComponentConfig) and name in marked:
                yield marked[name], item
            if hasattr(type(item), "model_fields"):
                yield from nested(item)
