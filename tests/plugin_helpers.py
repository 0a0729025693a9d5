"""Installing a plugin for one test: a module and the metadata of a distribution, in a folder for sys.path."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

BROKEN = Path(__file__).parent / "fixtures_plugins"
EXAMPLE = Path(__file__).parent / "example_plugin"


def install(folder: Path, module: str, *, name: str | None = None, version: str = "1.2") -> Path:
    """Make `folder` hold the distribution `<module>-dist` with the entry point `name = module`; returns `folder`."""
    source = BROKEN / f"{module}.py" if (BROKEN / f"{module}.py").exists() else EXAMPLE / f"{module}.py"
    distribution = f"{module.replace('_', '-')}-dist"
    shutil.copy(source, folder / source.name)
    info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[gaekit]\n{name or module} = {module}\n")
    return folder


def install_text(folder: Path, module: str, source: str, pyproject: str) -> Path:
    """The same for a module and a pyproject.toml given as text."""
    project = tomllib.loads(pyproject)["project"]
    (folder / f"{module}.py").write_text(source)
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(head)
    entries = "".join(f"{name} = {value}\n" for name, value in project["entry-points"]["gaekit"].items())
    (info / "entry_points.txt").write_text(f"[gaekit]\n{entries}")
    return folder
