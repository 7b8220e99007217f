"""Tables by name that installed packages add to: attacks, trainers, games, report sections, data sets, models."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, Generic, TypeVar

from mlflow_privacy.errors import ConfigError

T = TypeVar("T")


def load_entry_points(group: str) -> dict[str, Callable[[], Any]]:
    """What installed packages add to a table: name → a function that imports and returns it.

    Names are read from the packages' metadata. Only the package whose entry is called for is imported.

    Args:
      group: such as "mlflow_privacy.attacks".

    Raises: ConfigError: (by the function) the package cannot be imported.

    >>> load_entry_points("mlflow_privacy.no_such_group")
    {}
    """
    from importlib.metadata import EntryPoint, entry_points

    def loading(entry: EntryPoint) -> Callable[[], Any]:
        def load() -> Any:
            try:
                return entry.load()
            except Exception as error:  # another package's code may raise anything
                package = entry.dist.name if entry.dist else "an installed package"
                raise ConfigError(
                    f"{entry.name!r} of {package} ({group}) cannot be imported from {entry.value}: "
                    f"{type(error).__name__}: {error}. Repair or remove that package."
                ) from error

        return load

    return {entry.name: loading(entry) for entry in entry_points(group=group)}


def package_of(group: str, name: str) -> str:
    """The installed package that adds an entry, with its version, for messages; "" if none does.

    >>> package_of("mlflow_privacy.no_such_group", "root")
    ''
    """
    from importlib.metadata import entry_points

    found = next((entry.dist for entry in entry_points(group=group, name=name) if entry.dist), None)
    return f"{found.name} {found.version}" if found else ""


class Registry(MutableMapping[str, T], Generic[T]):
    """Entries by name: our own, those that a caller registers, and those of installed packages.

    Our own may be given as "package.module:name" and are imported when they are asked for, as are those of packages.
    A name of ours, or one that was registered here, wins over a package's.

    Args:
      group: entry-point group under which packages add entries, such as "mlflow_privacy.attacks".
      entries: our own, in order; a string is where to import the entry from.
      check: raises `ConfigError` for an entry that is none of this table's kind; gets its name and the entry.

    Example:
      >>> table = Registry("mlflow_privacy.no_such_group", {"root": "math:sqrt"})
      >>> table["root"](9.0), list(table)
      (3.0, ['root'])
      >>> table.register("twice")(lambda x: 2 * x)(4), "twice" in table
      (8, True)
    """

    def __init__(
        self, group: str, entries: Mapping[str, T | str], check: Callable[[str, Any], None] | None = None
    ) -> None:
        self.group = group
        self._entries: dict[str, T | str] = dict(entries)
        self._check = check
        self._of_packages: dict[str, Callable[[], Any]] | None = None

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that adds its argument under `name`, or replaces what stands there."""

        def add(entry: T) -> T:
            self[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            entry = self._packages()[name]()
            if name not in self._entries:  # else a decorator in the package has registered it at its import
                self[name] = entry
        found = self._entries[name]
        if isinstance(found, str):
            module, _, attribute = found.partition(":")
            found = self._entries[name] = getattr(importlib.import_module(module), attribute)
        return found

    def __setitem__(self, name: str, entry: T) -> None:
        if self._check is not None:
            self._check(name, entry)
        self._entries[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self._packages()

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._entries, *self._packages())))

    def __len__(self) -> int:
        return len(set(self._entries) | set(self._packages()))

    def _packages(self) -> dict[str, Callable[[], Any]]:
        """Entry points of the group, read once."""
        if self._of_packages is None:
            self._of_packages = load_entry_points(self.group)
        return self._of_packages
