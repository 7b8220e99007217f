"""Installed packages without an installer: a module, and metadata with entry points, on the path of this process."""

from __future__ import annotations

from pathlib import Path

from mlflow_privacy.plugins import Registry


def install(folder: Path, monkeypatch, name: str, source: str, **entry_points: dict[str, str]) -> None:
    """Puts the package `name` 1.0 on the path.

    Args:
      source: of its one module, which bears the same name.
      **entry_points: by the last word of their group, such as attacks={"mine": "acme:mine"}.
    """
    (folder / f"{name}.py").write_text(source)
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = []
    for group, entries in entry_points.items():
        lines += [f"[mlflow_privacy.{group}]", *(f"{key} = {value}" for key, value in entries.items()), ""]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(folder))


def as_new(monkeypatch, registry: Registry) -> None:
    """The table as in a process that has looked for no packages yet; afterwards it is as it was."""
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(registry, "_of_packages", None)
