"""Where code comes from: Python, an installed library, this package, or the caller; and the files it consists of.

Of a library the version says what it does. The caller's own packages have no version that anybody keeps, so the
digest of their source files stands for them, with all of the caller's packages that they import.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from pathlib import Path
from typing import Any, Literal

Origin = Literal["python", "library", "this package", "own"]
THIS = "mlflow_privacy"
SCRIPTS = ("__main__", "__mp_main__")
# Their version tells what they do; of other libraries the files that were installed count too.
FRAMEWORKS = frozenset(
    {
        *("numpy", "scipy", "sklearn", "pandas", "torch", "torchvision", "transformers"),
        *("xgboost", "lightgbm", "catboost", "skops", "mlflow"),
    }
)
_INSTALLED_AS = {"sklearn": "scikit-learn"}
_PYTHON = tuple({str(Path(sysconfig.get_path(name)).resolve()) + os.sep for name in ("stdlib", "platstdlib")})
_INSTALLED = ("site-packages", "dist-packages")
_NOT_SOURCE = ("__pycache__", "node_modules", *_INSTALLED)
_NAMED = re.compile(rb"(?:import_module|__import__)\(\s*[\"']([\w.]+)[\"']")


def qualified_name(thing: Any) -> str:
    """The module and qualified name of a class or function.

    >>> import collections
    >>> qualified_name(collections.OrderedDict)
    'collections.OrderedDict'
    """
    return f"{getattr(thing, '__module__', None) or 'builtins'}.{getattr(thing, '__qualname__', repr(thing))}"


def root_of(thing: Any) -> str:
    """The package that a class, function or module belongs to; "" where it does not say.

    >>> root_of(importlib.metadata), root_of(Path), root_of(len)
    ('importlib', 'pathlib', 'builtins')
    """
    name = thing.__name__ if isinstance(thing, type(sys)) else getattr(thing, "__module__", None)
    return name.partition(".")[0] if isinstance(name, str) else ""


def origin(root: str) -> Origin:
    """Where the package `root` comes from; a name that nothing can be found of is the caller's own.

    Only its place is looked up; nothing is imported. A file of the caller's that is called like a module of Python's or
    of a library's is the caller's.

    >>> origin("json"), origin("numpy"), origin("__main__")
    ('python', 'library', 'own')
    """
    if root == THIS:
        return "this package"
    if root in ("builtins", "", "__future__") or root in sys.builtin_module_names:
        return "python"
    if root in SCRIPTS:
        return "own"
    return _origin_of_place(root, _place(root))


@functools.lru_cache(maxsize=4096)
def _origin_of_place(root: str, place: str) -> Origin:
    if place in ("built-in", "frozen"):
        return "python"
    parts = Path(place).parts
    if not any(folder in parts for folder in _INSTALLED) and place.startswith(_PYTHON):
        return "python"
    if any(folder in parts for folder in _INSTALLED):
        return "library"
    # Unpacked wheels that lie elsewhere. (Beside a package in development there is an egg-info, not this.)
    return "library" if place and any(Path(place).parent.glob(f"{root}-*.dist-info")) else "own"


def _spec(root: str) -> ModuleSpec | None:
    spec = getattr(sys.modules.get(root), "__spec__", None)
    if spec is not None or root in sys.modules:
        return spec
    try:
        return importlib.util.find_spec(root)
    except (ImportError, ValueError, AttributeError):
        return None


def _place(root: str) -> str:
    """The package's folder, its file, "built-in" or "frozen"; "" if there is none."""
    spec, module = _spec(root), sys.modules.get(root)
    if spec is None:
        file = getattr(module, "__file__", None)
        return str(Path(file).resolve()) if file else ""
    if spec.submodule_search_locations:
        folders = list(spec.submodule_search_locations)
        return str(Path(folders[0]).resolve()) if folders else ""
    place = spec.origin or ""
    return place if place in ("", "built-in", "frozen") else str(Path(place).resolve())


def library_version(root: str) -> str:
    """A library's version; unless it is a well-known framework, also the digest of the files that were installed.

    >>> library_version("numpy").split(".")[0] in ("1", "2")
    True
    """
    names = [_INSTALLED_AS.get(root, root)] if root in FRAMEWORKS else sorted(set(_distributions().get(root, [])))
    try:  # not the module's own word, which there is only once it is loaded
        version = " ".join(importlib.metadata.version(name) for name in names)
    except importlib.metadata.PackageNotFoundError:
        version, names = str(getattr(sys.modules.get(root), "__version__", "")), []
    if root in FRAMEWORKS:
        return version
    listed = [
        f"{file} {file.hash.value}"
        for name in names
        for file in importlib.metadata.files(name) or ()
        if file.hash is not None and file.parts[0].partition(".")[0] == root
    ]
    if not listed:  # a folder that nobody installed, or an installer that keeps no list
        listed = [f"{name} {digest}" for name, digest, _ in _read(root)]
    return f"{version} {_sha256(sorted(listed))[:32]}".strip()


def _sha256(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@functools.lru_cache(maxsize=1)
def _distributions() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())


def source_files(root: str) -> dict[str, Path]:
    """A package's source files and compiled extensions by their path inside it; a single module's file.

    >>> sorted(source_files("colorsys"))
    ['colorsys.py']
    """
    spec = _spec(root)
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not folders:
        place = Path(_place(root) or os.devnull)
        return {place.name: place} if place.is_file() else {}
    found: dict[str, Path] = {}
    for folder in folders:
        for path in _below(Path(folder)):
            found.setdefault(path.relative_to(folder).as_posix(), path)
    return found


def _below(folder: Path) -> Iterator[Path]:
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _NOT_SOURCE)
        yield from (Path(here, name) for name in sorted(files) if name.endswith((".py", *EXTENSION_SUFFIXES)))


def _read(root: str) -> list[tuple[str, str, frozenset[str]]]:
    """Path, SHA-256 and imported packages of each of a package's files."""
    out = []
    for name, path in sorted(source_files(root).items()):
        try:
            content = path.read_bytes()
        except OSError:  # gone since the folder was listed
            continue
        imported = _imported(content) if name.endswith(".py") else frozenset()
        out.append((name, hashlib.sha256(content).hexdigest(), imported))
    return out


@functools.lru_cache(maxsize=4096)
def _imported(source: bytes) -> frozenset[str]:
    """Packages that a source file imports, inside functions too."""
    found = {match.decode().partition(".")[0] for match in _NAMED.findall(source)}
    try:
        waiting: list[ast.AST] = [ast.parse(source)]
    except (SyntaxError, ValueError):
        return frozenset(found)
    while waiting:  # statements only: expressions import nothing, and are most of a tree
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            inner = getattr(node, field, ())
            waiting += inner if isinstance(inner, list) else []
    return frozenset(found)


def own_packages(roots: set[str]) -> dict[str, str]:
    """SHA-256 of the source files of each of the caller's packages, and of those that they import in turn.

    Packages without any file (made in a session, or loaded by value) are left out.
    """
    waiting, found, seen = sorted(roots), {}, set(roots)
    while waiting:
        root = waiting.pop()
        files = _read(root)
        if files:
            found[root] = _sha256([f"{name} {digest}" for name, digest, _ in files])
        further = set().union(*(names for _, _, names in files)) - seen
        seen |= further
        waiting += sorted(name for name in further if origin(name) == "own" and _place(name))
    return dict(sorted(found.items()))
