"""Where an experiment's files go, and how they get there whole or not at all."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

CONFIG = "config.yaml"
# What readers look for first comes last, so that its presence says that the rest is there.
_LAST = ("models/models_metadata.json", "experiment.json")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an experiment's files go.

    Attributes:
      folder: the log directory, None if there is none.
      scratch: an empty folder on the same disk, gone when the experiment ends.
      keep_config: the config was read from the folder itself and stays as its owner wrote it.
    """

    folder: Path | None
    scratch: Path
    keep_config: bool = False

    def commit(self, root: Path) -> None:
        """Moves every file below `root` to its place in `folder`.

        Each is renamed, which happens at once: a process killed at any moment leaves a file whole, as it was before,
        or absent. The config comes first, since it says whose results these are.
        """
        if self.folder is None:
            return
        files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
        if self.keep_config:
            files.pop(CONFIG, None)
        for name in sorted(files, key=lambda name: (name != CONFIG, name in _LAST, name)):
            final = self.folder / name
            final.parent.mkdir(parents=True, exist_ok=True)
            os.replace(files[name], final)
