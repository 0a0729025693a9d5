"""What components need from outside their packages: published files, fetched once, and files that a recipe names."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from gaekit.api.download import download, mirrored
from gaekit.errors import GaekitError, MachineFailed

State = Literal["present", "absent", "damaged"]
OFFLINE = "HF_HUB_OFFLINE"
FETCHING = "`gaekit assets RECIPE --fetch`"
_TRUE = ("1", "ON", "YES", "TRUE")


def is_offline() -> bool:
    """Whether the environment forbids downloads: HF_HUB_OFFLINE, as the hub's own clients read it."""
    return os.environ.get(OFFLINE, "").upper() in _TRUE


def go_offline() -> None:
    """Forbid downloads from here on, to this process, to those that it starts, and to the hub's client in it."""
    os.environ[OFFLINE] = "1"
    if hub := sys.modules.get("huggingface_hub.constants"):  # it read the variable when it was imported
        hub.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]


def sha256_of(path: Path) -> str:
    """The sha256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Asset(ABC):
    """A file that a component needs and its package does not hold. `what` says what it is, for people."""

    what: str

    @property
    @abstractmethod
    def identity(self) -> str:
        """What stands for its content in fingerprints, whether it is there or not. Raises GaekitError for a file of the
        recipe's that is absent."""

    @property
    @abstractmethod
    def source(self) -> str:
        """Where it comes from, for people."""

    @property
    @abstractmethod
    def place(self) -> Path:
        """Where it is kept, or will be."""

    @abstractmethod
    def find(self) -> Path | None:
        """Where it is, or None. Its content is not looked at."""

    @abstractmethod
    def fetch(self, owner: str) -> Path:
        """Where it is, fetched if it may be; `owner` is who needs it, for errors. Raises GaekitError."""

    @property
    def sha256_starts(self) -> str:
        """The beginning of the sha256 that its content should have; empty where nothing tells."""
        return ""

    def check(self) -> State:
        """Whether it is there and, where its hash is known, whole: reads all of it."""
        path = self.find()
        if path is None:
            return "absent"
        return "present" if not self.sha256_starts or sha256_of(path).startswith(self.sha256_starts) else "damaged"

    @property
    def mend(self) -> str:
        """What to do where it is absent."""
        return (
            f"where there is a network, {FETCHING} fetches it from {self.source}; "
            "or give the recipe the path of a copy in place of `hub`"
        )


@dataclass(frozen=True)
class LocalFile(Asset):
    """A file that the recipe names by its path, or with `folders` a folder. Nothing fetches it. `hint` says what would
    be right."""

    path: str
    hint: str = "give the path of a file that is there"
    folders: bool = False

    @property
    def identity(self) -> str:
        """The sha256 of its content."""
        return f"sha256:{sha256_of(self.fetch('weights'))}"

    @property
    def source(self) -> str:
        """The recipe."""
        return "named by the recipe"

    @property
    def place(self) -> Path:
        """Its path."""
        return Path(self.path)

    def find(self) -> Path | None:
        """Its path, if something is there."""
        found = self.place.is_file() or (self.folders and self.place.is_dir())
        return self.place if found else None

    def fetch(self, owner: str) -> Path:
        """Its path. Raises GaekitError where there is nothing."""
        if self.find() is None:
            raise GaekitError(f"{owner}: no file {self.path}; {self.hint}")
        return self.place

    @property
    def mend(self) -> str:
        """The hint."""
        return self.hint


class PublishedAsset(Asset):
    """What can be fetched again."""

    def discard(self) -> None:
        """Remove it from where it is kept."""
        if path := self.find():
            path.unlink()

    def _absent(self, owner: str, why: str) -> GaekitError:
        absent = f"{owner} needs {self.what}: {self.place.name} is not in {self.place.parent}"
        return GaekitError(f"{absent}, and {why}; {self.mend}")


@dataclass(frozen=True)
class Download(PublishedAsset):
    """A file with a URL, kept in torch's hub cache or in `folder`.

    `sha256` is its hash or the beginning of that, by default the one that by torch's custom ends its name:
    `alexnet-owt-7be5be79.pth`. `recorded` is for a file whose hash nobody tells: it is written beside it when the file
    is first there, as NAME.sha256, and held to from then on. `alias` is what its identity calls it, by default the URL.
    """

    url: str
    sha256: str = ""
    folder: Path | None = None
    alias: str = ""
    recorded: bool = False

    @property
    def identity(self) -> str:
        """`hub:<URL or alias>`: a URL that holds a hash names its content."""
        return f"hub:{self.alias or self.url}"

    @property
    def source(self) -> str:
        """The URL."""
        return self.url

    @property
    def file(self) -> str:
        """The file's name."""
        return Path(urlsplit(self.url).path).name

    @property
    def sha256_starts(self) -> str:
        """As given, as the name tells, or as recorded."""
        told = re.search(r"-([0-9a-f]{8,64})\.", self.file)
        return self.sha256 or (told[1] if told else "") or self._recorded

    @property
    def record(self) -> Path:
        """Where the hash of a `recorded` file is kept."""
        return self.place.with_name(f"{self.file}.sha256")

    @property
    def _recorded(self) -> str:
        return self.record.read_text().strip() if self.recorded and self.record.is_file() else ""

    @property
    def place(self) -> Path:
        """In torch's hub cache, where torch itself, torchvision and timm look too."""
        if self.folder is not None:
            return self.folder / self.file
        import torch

        return Path(torch.hub.get_dir()) / "checkpoints" / self.file

    def find(self) -> Path | None:
        """The file at its place."""
        return self.place if self.place.is_file() else None

    def fetch(self, owner: str) -> Path:
        """The file, fetched if it may be, its content checked. Raises GaekitError."""
        if self.find() is None:
            self._download(owner)
        if not (digest := sha256_of(self.place)).startswith(self.sha256_starts):
            other = f"; or, where another file is right, delete {self.record}" if self._recorded else ""
            raise GaekitError(
                f"{owner}: {self.place} is damaged: its sha256 begins with {digest[: len(self.sha256_starts)]}, should "
                f"with {self.sha256_starts}; delete it and fetch it again from {self.url} ({FETCHING} does both){other}"
            )
        if self.recorded and not self._recorded:
            self.record.write_text(f"{digest}\n")
        return self.place

    def _download(self, owner: str) -> None:
        if is_offline():
            raise self._absent(owner, f"{OFFLINE} forbids downloads")
        try:
            download(self.url, self.place, self.sha256_starts)
        except MachineFailed:
            raise
        except GaekitError as error:
            raise self._absent(owner, f"fetching it failed ({error})") from error


@dataclass(frozen=True)
class HubFile(PublishedAsset):
    """A file of a repository on the Hugging Face hub, kept in its client's cache, where timm and open_clip look too.

    `files` are names that it may have, the preferred one first. `alias` is what its identity calls it, by default the
    repository.
    """

    repo: str
    files: tuple[str, ...]
    revision: str | None = None
    alias: str = ""

    @property
    def identity(self) -> str:
        """`hub:<repository or alias>`."""
        return f"hub:{self.alias or self.repo}"

    @property
    def source(self) -> str:
        """The repository and the file."""
        return f"hf.co/{self.repo}/{self.files[0]}" + (f" at {self.revision}" if self.revision else "")

    @property
    def place(self) -> Path:
        """The file in the hub's cache; where it is absent, the folder of its repository with the file's name."""
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=self.repo, repo_type="model")
        return self.find() or folder / self.files[0]

    @property
    def sha256_starts(self) -> str:
        """Of a large file: the hub's cache keeps it under its hash, behind a link."""
        path = self.find()
        kept = os.path.basename(os.readlink(path)) if path is not None and path.is_symlink() else ""
        return kept if re.fullmatch(r"[0-9a-f]{64}", kept) else ""

    def find(self) -> Path | None:
        """The first of `files` that is in the cache."""
        from huggingface_hub import try_to_load_from_cache

        found = (try_to_load_from_cache(self.repo, file, revision=self.revision) for file in self.files)
        return next((Path(path) for path in found if isinstance(path, str)), None)

    def fetch(self, owner: str) -> Path:
        """The file, fetched by the hub's client if it may be, its content checked where its hash is known. Raises
        GaekitError."""
        path = self.find() or self._fetched(owner)
        if self.check() == "damaged":
            raise GaekitError(
                f"{owner}: {path} is damaged: its sha256 should be {self.sha256_starts}; delete it and what it leads "
                f"to, and fetch it again from {self.source} ({FETCHING} does both)"
            )
        return path

    def _fetched(self, owner: str) -> Path:
        if is_offline():
            raise self._absent(owner, f"{OFFLINE} forbids downloads")
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        why = f"the repository {self.repo} has no {' or '.join(self.files)}"
        for file in self.files:
            try:
                return self._download(file)
            except LocalEntryNotFoundError as error:  # no connection
                raise self._absent(owner, f"fetching it failed ({_first_line(error)})") from error
            except EntryNotFoundError:
                continue
            except Exception as error:  # the client and what it stands on raise dozens of types
                raise self._absent(owner, f"fetching it failed ({_first_line(error)})") from error
        raise self._absent(owner, why)

    def discard(self) -> None:
        """Remove it, and what the links of the hub's cache lead to."""
        path = self.find()
        while path is not None and path.is_symlink():
            link, path = path, path.parent / os.readlink(path)
            link.unlink()
        if path is not None:
            path.unlink(missing_ok=True)

    def _download(self, file: str) -> Path:
        from huggingface_hub import constants, hf_hub_download

        endpoint = mirrored(constants.ENDPOINT)
        other = None if endpoint == constants.ENDPOINT else endpoint
        return Path(hf_hub_download(self.repo, file, revision=self.revision, endpoint=other))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
