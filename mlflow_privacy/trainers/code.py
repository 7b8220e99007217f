"""Code that a recipe names is imported only if the caller allowed that very name."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from typing import Any

from mlflow_privacy.errors import RecipeError, UnsafeError

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*[.:][A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)


def import_allowed(dotted: str, allow_code: Sequence[str]) -> Any:
    """Imports the object behind "package.module:name", if the caller allowed exactly that name.

    Raises:
      UnsafeError: the name is not in `allow_code`; nothing was imported.
      RecipeError: the name is allowed, but there is no such thing.

    Example:
      >>> import_allowed("math:sqrt", allow_code=["math:sqrt"])(9.0)
      3.0
    """
    if not isinstance(dotted, str) or not _DOTTED.fullmatch(dotted):
        raise RecipeError(f'A dotted name must look like "package.module:name", got {dotted!r}.')
    if dotted.replace(":", ".") not in {str(name).replace(":", ".") for name in allow_code}:
        raise UnsafeError(
            f"{dotted!r} would have to be imported, which runs its code. If you trust it, pass allow_code=[{dotted!r}]."
        )
    module, _, name = dotted.rpartition(".") if ":" not in dotted else dotted.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise RecipeError(f"{dotted!r} is allowed but cannot be imported: {error}.") from error
    return found
