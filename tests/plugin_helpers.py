"""Installing a plugin for one test: a module and the metadata of a distribution, in a folder for sys.path."""

from __future__ import annotations

import shutil
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
