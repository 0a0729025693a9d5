"""What a file of somebody else names stays inside the folder it was named for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gaekit.errors import ArtifactError, DataError
from gaekit.inside import file_inside, join_inside, open_regular, plain_name, require_regular, resolve_inside

ABSOLUTE_OR_UP = ("/etc/passwd", "../x", "a/../../x", "..", "a/..", "//x", "/")
NO_NAMES = (
    "",
    ".",
    "..",
    "a/b",
    "/",
    "a\\b",
    "a\0b",
    "a\nb",
    "\x1b[2J",
    "\ud800",
    "n" * 256,
    "é" * 128,
    None,
    3,
    ["a"],
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "cache"
    made.mkdir()
    (tmp_path / "secret").write_text("secret")
    return made


@pytest.mark.parametrize("name", NO_NAMES)
def test_only_one_plain_component_is_a_plain_name(name: object) -> None:
    with pytest.raises(ArtifactError, match=r"^run\.json: stages: "):
        plain_name(name, "run.json: stages")


@pytest.mark.parametrize("name", ["00000.safetensors", "größe.png", ".hidden", "a b", "n" * 255])
def test_a_plain_name_is_given_back(name: str) -> None:
    assert plain_name(name, "here") == name


@pytest.mark.parametrize("name", [*ABSOLUTE_OR_UP, "", None, 7, ".", "a\0b", "n" * 300, "\ud800"])
def test_a_relative_path_without_a_way_up_is_asked_for(folder: Path, name: object) -> None:
    with pytest.raises(DataError, match=r"^manifest: file: "):
        join_inside(folder, name, "manifest: file", DataError)


def test_a_path_below_is_joined_whether_it_exists_or_not(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "there").write_text("x")
    assert join_inside(folder, "sub/there", "here") == folder / "sub" / "there"
    assert join_inside(folder, "later/made", "here") == folder / "later" / "made"


def test_a_link_that_leads_out_is_refused_and_named(folder: Path) -> None:
    (folder / "notes.json").symlink_to(folder.parent / "secret")
    (folder / "up").symlink_to("..")
    for name in ("notes.json", "up/secret", "up/new"):
        with pytest.raises(ArtifactError, match=f"'.*{name}' leads out of .*cache"):
            join_inside(folder, name, "here")


def test_a_link_that_stays_inside_and_a_linked_root_are_followed(folder: Path, tmp_path: Path) -> None:
    (folder / "real").write_text("x")
    (folder / "link").symlink_to("real")
    (tmp_path / "other").symlink_to(folder)
    assert file_inside(tmp_path / "other", "link", "here").read_text() == "x"


def test_a_link_to_itself_is_refused(folder: Path) -> None:
    (folder / "loop").symlink_to("loop")
    with pytest.raises(ArtifactError, match="loop"):
        file_inside(folder, "loop", "here")


def test_any_of_several_roots_will_do(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    target = tmp_path / "store" / "x"
    (folder / "x").symlink_to(target)
    assert resolve_inside(folder / "x", [folder, tmp_path / "store"], "here") == target.resolve()
    with pytest.raises(ArtifactError, match="leads out of"):
        resolve_inside(folder / "x", [folder], "here")


def test_a_folder_that_only_begins_with_the_same_letters_is_outside(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="leads out"):
        resolve_inside(tmp_path / "cache-of-others", [folder], "here")


def test_pipes_devices_folders_and_absent_files_are_no_regular_files(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "sub").mkdir()
    (folder / "null").symlink_to("/dev/null")
    for path, what in ((folder / "pipe", "pipe"), (folder / "sub", "a folder"), (folder / "none", "No such file")):
        with pytest.raises(ArtifactError, match=what):
            file_inside(folder, path.name, "here")
    with pytest.raises(ArtifactError, match="device"):
        require_regular(folder / "null", "here")


def test_what_is_shown_of_a_hostile_name_is_one_short_printable_line() -> None:
    with pytest.raises(ArtifactError) as raised:
        plain_name("\x1b[2J\n" * 10_000, "here")
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 400


def test_only_a_regular_file_is_opened(folder: Path) -> None:
    import socket

    (folder / "a").write_text("text")
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(folder / "socket"))
    with open_regular(folder / "a", "x") as file:
        assert file.read() == b"text"
    for path in (folder / "pipe", folder / "socket", folder, Path("/dev/null")):
        with pytest.raises(DataError, match="expected a regular file"):
            open_regular(path, "x", DataError)
    with pytest.raises(FileNotFoundError):
        open_regular(folder / "none", "x")
