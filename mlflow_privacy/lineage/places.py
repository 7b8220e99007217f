"""Where a data file may lie that is not where it was when it was logged."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from mlflow_privacy.errors import LineageError

if TYPE_CHECKING:
    from mlflow_privacy.store.fetch import RunFiles

FOLDER_VARIABLE = "MLFLOW_PRIVACY_DATA"
_MOST_PARTS = 4  # of a path, that are looked for below another folder


@dataclasses.dataclass(frozen=True)
class Places:
    """Folders and the artifacts of a run, in which a missing file is looked for.

    Attributes:
      folders: by what they are, in words.
      files: of the source run, None if it is not here.
    """

    folders: tuple[tuple[str, Path], ...] = ()
    files: RunFiles | None = None

    @contextlib.contextmanager
    def found(self, path: Path) -> Iterator[Path]:
        """The file that a missing path means, wherever it lies now.

        Its last parts must be the same: "/old/home/data/train.csv" is data/train.csv or train.csv of a folder.

        Raises:
          LineageError: it is nowhere; says where it was looked for.
        """
        endings = _endings(path)
        for _, folder in self.folders:
            for ending in endings:
                if (folder / ending).exists():
                    yield folder / ending
                    return
        if self.files is not None:
            for ending in endings:
                parent = ending.parent.as_posix()
                if ending.as_posix() in self.files.listed("" if parent == "." else parent):
                    with self.files.local(ending.as_posix()) as local:
                        yield local
                    return
        raise LineageError(self._nowhere(path))

    def _nowhere(self, path: Path) -> str:
        looked = [] if path.is_absolute() else [str(Path.cwd())]
        looked += [f"{folder} ({what})" for what, folder in self.folders]
        looked += [] if self.files is None else [f"the artifacts of run {self.files.run_id}"]
        hint = "" if any(what == FOLDER_VARIABLE for what, _ in self.folders) else f"; {FOLDER_VARIABLE} is not set"
        kind = "" if path.is_absolute() else "a relative path, "
        where = ", in ".join(looked) or "no other folder"
        return f"its source {path} does not exist ({kind}looked up in {where}{hint})"


def places_of(client: Any, files: RunFiles | None) -> Places:
    """The folder of the tracking store, the one of the environment, and the artifacts of the source run."""
    folders: list[tuple[str, Path]] = []
    store = _store_folder(client)
    if store is not None and store != Path.cwd():
        folders.append(("the tracking store", store))
    named = os.environ.get(FOLDER_VARIABLE, "").strip()
    if named:
        folders.append((FOLDER_VARIABLE, Path(named).expanduser()))
    return Places(tuple(folders), files)


def _store_folder(client: Any) -> Path | None:
    """The folder in which a tracking store on this machine lies: that of the training script, as a rule."""
    parts = urlparse(str(getattr(client, "tracking_uri", "") or ""))
    if parts.scheme == "sqlite":  # sqlite:///relative.db, sqlite:////absolute.db
        return Path(parts.path[1:]).resolve().parent if len(parts.path) > 1 else None
    if parts.scheme in ("", "file") and parts.path:
        return Path(parts.path).resolve().parent
    return None


def _endings(path: Path) -> list[Path]:
    """The path itself if it is relative, then its last parts, the longest first.

    >>> [ending.as_posix() for ending in _endings(Path("/home/me/data/train.csv"))]
    ['home/me/data/train.csv', 'me/data/train.csv', 'data/train.csv', 'train.csv']
    """
    parts = [part for part in path.parts if part not in (path.anchor, "..", ".")]
    return [Path(*parts[-count:]) for count in range(min(len(parts), _MOST_PARTS), 0, -1)]
