"""MLflow's check of a model's requirements, without the listing of every file of every installed package."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

_LISTING, _MAP = "_init_packages_to_modules_map", "_PACKAGES_TO_MODULES"


@contextlib.contextmanager
def quick_requirement_check() -> Iterator[None]:
    """Whoever logs or loads a model here gets MLflow's warnings of mismatches without the listing before them.

    The listing takes a second or more, once a process. It tells under which name a package is imported, which the check
    wants only of packages that have no metadata, and the listing itself reads metadata. Nothing else of MLflow calls
    this function. Where a version of MLflow has no such function, nothing is changed.

    >>> from mlflow.utils.requirements_utils import _check_requirement_satisfied as check
    >>> with quick_requirement_check():
    ...     str(check("numpy>=1")), str(check("numpy<1")).partition(" (")[0], str(check("no-such-package"))
    ('None', 'numpy', 'no-such-package (current: uninstalled, required: no-such-package)')
    """
    from mlflow.utils import requirements_utils

    module: Any = requirements_utils
    original = getattr(module, _LISTING, None)
    if original is None or original is _no_listing or not hasattr(module, _MAP):
        yield
        return
    setattr(module, _LISTING, _no_listing)
    try:
        yield
    finally:
        setattr(module, _LISTING, original)


def _no_listing() -> None:
    """In place of the listing: what was listed before stands."""
    from mlflow.utils import requirements_utils

    if getattr(requirements_utils, _MAP) is None:
        setattr(requirements_utils, _MAP, {})
