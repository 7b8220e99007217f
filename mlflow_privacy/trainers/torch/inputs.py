"""How records go into a module: in which type, and as one tensor or several.

The type in which records were logged decides, then what the module takes; never its first layer. Fractions stay
fractions. Whole numbers become floats where the module takes those, else they stay whole (indices of an embedding); so
do floats that are all whole where the module takes nothing else.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from mlflow_privacy.errors import PrivacyAuditError, RecipeError
from mlflow_privacy.trainers.torch.columns import arguments, parts
from mlflow_privacy.trainers.torch.exported import restore_exported
from mlflow_privacy.trainers.torch.reinit import plain_module
from mlflow_privacy.trainers.torch.tensors import evaluation_mode, features, first_tensor

_PROBED = 3  # records: one could hide that the first dimension of an output is not theirs
_LOOKED_AT = 64  # records whose fractions tell that all are no whole numbers
_MOST_CHOICES = 6  # arrays of whole numbers whose types are tried in every combination
_REFUSALS: tuple[type[Exception], ...] = (
    *(RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError, AssertionError),
    *(NotImplementedError, PrivacyAuditError),
)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Records as a module takes them.

    Attributes:
      module: takes one batch: the module itself, or one around it that takes the batch apart.
      tensor: (n, ...) on the CPU.
      dtype: of a batch.
    """

    module: torch.nn.Module
    tensor: torch.Tensor
    dtype: torch.dtype

    def told(self) -> str:
        """Types and form of what the module is given, in words that stay the same."""
        if isinstance(self.module, _Spread):
            return self.module.told()
        return str(self.dtype).removeprefix("torch.")

    def around(self, module: torch.nn.Module) -> torch.nn.Module:
        """Another module of the same kind, as one that takes such a batch."""
        return self.module.around(module) if isinstance(self.module, _Spread) else module


def inputs_of(
    module: torch.nn.Module, x: Any, *, device: torch.device | None = None, error: type[PrivacyAuditError] = RecipeError
) -> Inputs:
    """Records (n, ...) as a module takes them; it is asked about a few of them, in evaluation mode.

    A table goes in as one tensor, or, where its columns have the names of the module's arguments or are those of
    several arrays (`columns`), as the tensors that the module takes.

    Args:
      device: where the module is, if that is known.

    Raises:
      RecipeError (or `error`): columns are not numeric, or the module takes none of the forms that records can have.

    >>> net = torch.nn.Sequential(torch.nn.Embedding(5, 2), torch.nn.Flatten())
    >>> inputs_of(net, np.array([[1, 4]])).dtype, inputs_of(torch.nn.Linear(2, 1), np.array([[1, 4]])).dtype
    (torch.int64, torch.float32)
    """
    device = device or _home(module)
    several = _Several.of(x) if _may_be_several(module, x) else None
    if several is not None:
        few = features(x.iloc[:_PROBED], torch.float64, error=error)
        spread = several.accepted_by(module, few, device, x)
        if spread is not None:
            wide = spread.wide or float_dtype(module) == torch.float64
            dtype = torch.float64 if wide else torch.float32
            return Inputs(spread, features(x, dtype, error=error), dtype)
        if several.told and not accepts(module, few.to(device, float_dtype(module))):
            raise error(several.refused(module))
    names, required, _ = arguments(plain_module(module).forward)
    if len(required) > 1:
        raise error(
            f"{type(module).__name__}.forward takes several inputs ({', '.join(names)}), but its records are one array "
            "for each, or a table without columns of these names. Log the arrays by these names: "
            f'log_lineage(train=({{"{required[0]}": ..., "{required[1]}": ...}}, y)).'
        )
    dtype = input_dtype(module, x, device=device, error=error)
    return Inputs(module, features(x, dtype, error=error), dtype)


def _home(module: torch.nn.Module) -> torch.device:
    """Where a module is."""
    return next(
        (tensor.device for tensor in itertools.chain(module.parameters(), module.buffers())), torch.device("cpu")
    )


def float_dtype(module: torch.nn.Module) -> torch.dtype:
    """The type of a module's first float parameter."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


def input_dtype(
    module: torch.nn.Module, x: Any, *, device: torch.device | None = None, error: type[PrivacyAuditError] = RecipeError
) -> torch.dtype:
    """The type in which a module takes records (n, ...) as one tensor: its own float type, or `torch.long`.

    Raises:
      RecipeError (or `error`): the module takes whole numbers only, and the records are fractions.
    """
    floats = float_dtype(module)
    if not len(x) or not _are_numbers(x):
        return floats
    whole, device = _are_whole_numbers(x), device or _home(module)
    some = x.iloc[:_LOOKED_AT] if hasattr(x, "iloc") else x[:_LOOKED_AT]
    if not whole and not looks_up(module) and not _all_whole(some):
        return floats
    few = x.iloc[:_PROBED] if hasattr(x, "iloc") else x[:_PROBED]

    def takes(dtype: torch.dtype) -> bool:
        return accepts(module, features(few, dtype, error=error).to(device=device, dtype=dtype))

    if takes(floats):
        return torch.long if whole and _rounded(x, floats) and takes(torch.long) else floats
    if not takes(torch.long):
        return torch.long if whole else floats  # as they were logged: the module then says what it does not take
    if not whole and not _all_whole(x):
        raise error(
            f"The module {type(module).__name__} takes whole numbers only (it looks them up in an embedding or a "
            "table), but some of the records are fractions. Log the records as the model reads them; if it reads whole "
            "numbers in some columns and fractions in others, log both as arrays of their own, "
            'log_lineage(train=({"num": ..., "cat": ...}, y)), named as the arguments of its forward.'
        )
    return torch.long


@torch.no_grad()
def accepts(module: Callable[..., Any], batch: torch.Tensor) -> bool:
    """Whether a module gives one output for each record of a batch."""
    mode = evaluation_mode(module) if isinstance(module, torch.nn.Module) else None
    try:
        if mode is None:
            output = first_tensor(module(batch))
        else:
            with mode:
                output = first_tensor(module(batch))
    except torch.cuda.OutOfMemoryError:
        raise
    except _REFUSALS:
        return False
    return output.ndim > 0 and len(output) == len(batch)


def wants_columns(module: Any, frame: Any) -> bool:
    """Whether a module takes a table's columns apart, by name or as several arrays, rather than as one matrix.

    Also where the names say that they are several arrays, and it takes neither: the error is then about these.
    """
    module = restore_exported(module)
    if not _may_be_several(module, frame):
        return False
    several, few = _Several.of(frame), features(frame.iloc[:_PROBED], torch.float64)
    if several.accepted_by(module, few, _home(module), frame) is not None:
        return True
    return several.told and not accepts(module, few.to(_home(module), float_dtype(module)))


def looks_up(module: torch.nn.Module) -> bool:
    """Whether some layer looks up whole numbers."""
    tables = (torch.nn.Embedding, torch.nn.EmbeddingBag)
    return any(
        isinstance(sub, tables) or str(getattr(sub, "kind", "")).endswith(".Embedding") for sub in module.modules()
    )


def takes(module: Any, x: Any) -> bool:
    """Whether a module takes the first of these records in some form."""
    module, few = restore_exported(module), x.iloc[:_PROBED] if hasattr(x, "iloc") else x[:_PROBED]
    try:
        inputs = inputs_of(module, few)
    except PrivacyAuditError:
        return False
    return accepts(inputs.module, inputs.tensor.to(device=_home(module), dtype=inputs.dtype))


def _are_numbers(x: Any) -> bool:
    if hasattr(x, "iloc"):
        return all(getattr(kind, "kind", "O") in "biuf" for kind in x.dtypes)
    return isinstance(x, torch.Tensor) or np.asarray(x).dtype.kind in "biuf"


def _are_whole_numbers(x: Any) -> bool:
    """Whether the records are logged as whole numbers."""
    if isinstance(x, torch.Tensor):
        return not x.is_floating_point() and not x.is_complex()
    if hasattr(x, "iloc"):
        return all(getattr(kind, "kind", "O") in "biu" for kind in x.dtypes)
    return np.asarray(x).dtype.kind in "biu"


def _values(x: Any) -> np.ndarray:
    if isinstance(x, torch.Tensor):
        return x.detach().cpu().numpy()
    return x.to_numpy(np.float64, na_value=np.nan) if hasattr(x, "iloc") else np.asarray(x)


def _all_whole(x: Any) -> bool:
    """Whether all values are whole numbers."""
    values = _values(x)
    return bool(np.isfinite(values).all() and (values == np.round(values)).all())


def _rounded(x: Any, floats: torch.dtype) -> bool:
    """Whether the float type would change some of the whole numbers."""
    values = _values(x)
    if values.dtype.itemsize == 1:
        return False
    most = 2 / torch.finfo(floats).eps
    return bool(values.size) and float(max(abs(values.min(initial=0)), abs(values.max(initial=0)))) > most


# --- several tensors ---------------------------------------------------------------------------------------------


def _may_be_several(module: Any, x: Any) -> bool:
    """Whether the columns of a table may be several inputs: they are of several arrays, or named like arguments."""
    if not hasattr(x, "iloc") or not len(x) or not hasattr(module, "forward"):
        return False
    return x.shape[1] > 1 and _are_numbers(x)


class _Spread(torch.nn.Module):
    """Takes a batch (b, k) apart into the tensors that a module takes."""

    def __init__(self, module: torch.nn.Module, form: _Form, pieces: Sequence[_Piece]) -> None:
        super().__init__()
        self.inside = module
        self._form, self._pieces = form, tuple(pieces)

    @property
    def wide(self) -> bool:
        """Whether float32 would change some of the whole numbers."""
        return any(piece.wide for piece in self._pieces)

    def told(self) -> str:
        """How the module is called, and with what."""
        words = (f"{p.name} {list(p.shape)} {str(p.dtype).removeprefix('torch.')}" for p in self._pieces)
        return f"{self._form.__name__.strip('_')}: {', '.join(words)}"

    def around(self, module: torch.nn.Module) -> _Spread:
        """The same around another module."""
        return _Spread(module, self._form, self._pieces)

    def forward(self, batch: torch.Tensor) -> Any:
        tensors = {piece.name: piece.of(batch) for piece in self._pieces}
        return self._form(self.inside, tensors)


_Form = Callable[[Any, dict[str, torch.Tensor]], Any]


def _by_name(module: Any, tensors: dict[str, torch.Tensor]) -> Any:
    return module(**tensors)


def _in_order(module: Any, tensors: dict[str, torch.Tensor]) -> Any:
    return module(*tensors.values())


def _as_tuple(module: Any, tensors: dict[str, torch.Tensor]) -> Any:
    return module(tuple(tensors.values()))


def _as_dict(module: Any, tensors: dict[str, torch.Tensor]) -> Any:
    return module(tensors)


@dataclasses.dataclass(frozen=True)
class _Piece:
    """One tensor of a batch: which columns, the shape of a record, and the type; `wide` if float32 would change it."""

    name: str
    places: list[int]
    shape: tuple[int, ...]
    dtype: torch.dtype
    wide: bool = False

    def of(self, batch: torch.Tensor) -> torch.Tensor:
        taken = batch[:, self.places]
        return taken.reshape(len(batch), *self.shape).to(self.dtype)


@dataclasses.dataclass(frozen=True)
class _Several:
    """The arrays that a table's columns are of.

    told: whether the names say so, as those of `columns.flattened` do.
    """

    found: dict[str, tuple[list[int], tuple[int, ...]]]
    whole: dict[str, bool]
    told: bool

    @staticmethod
    def of(x: Any) -> _Several:
        found = parts(x.columns)
        kinds = [getattr(kind, "kind", "O") for kind in x.dtypes]
        whole = {name: all(kinds[place] in "biu" for place in places) for name, (places, _) in found.items()}
        return _Several(found, whole, len(found) > 1 and any(shape for _, shape in found.values()))

    def accepted_by(self, module: torch.nn.Module, few: torch.Tensor, device: torch.device, x: Any) -> _Spread | None:
        """The module around which a batch is taken apart as it takes it; None if one matrix is what it takes."""
        floats, few = float_dtype(module), few.to(device)
        matrix: bool | None = None
        for form, names in self._forms(module):
            if form is _as_dict and not self.told:
                matrix = accepts(module, few.to(floats)) if matrix is None else matrix
                if matrix:
                    return None
            for pieces in self._pieces(names, floats, x):
                spread = _Spread(module, form, pieces)
                if accepts(spread, few):
                    return spread
        return None

    def _forms(self, module: torch.nn.Module) -> Iterator[tuple[_Form, list[str]]]:
        """Ways to call the module, the surest first, and the arrays that it then takes."""
        names = list(self.found)
        known, required, more = arguments(plain_module(module).forward)
        taken = [name for name in names if name in known]
        if len(taken) > 1 and set(required) <= set(taken):
            yield _by_name, taken
        if self.told and names == [str(i) for i in range(len(names))]:
            if more or len(required) <= len(names) <= len(known):
                yield _in_order, names
            yield _as_tuple, names
            return
        if self.told and more:
            yield _by_name, names
            yield _in_order, names
        if len(required) <= 1:
            yield _as_dict, names

    def _pieces(self, names: Sequence[str], floats: torch.dtype, x: Any) -> Iterator[list[_Piece]]:
        """Shapes and types to try: columns as (n,) and (n, 1); whole numbers as floats where the module takes those."""
        whole = [name for name in names if self.whole[name]]
        large = {name: _rounded(x.iloc[:, self.found[name][0]].to_numpy(np.int64), floats) for name in whole}
        orders = [(torch.long, floats) if large[name] else (floats, torch.long) for name in whole]
        if len(whole) > _MOST_CHOICES:
            chosen = [tuple(order[i] for order in orders) for i in (0, 1)]
        else:
            chosen = list(itertools.product(*orders))
        flat = [name for name in names if not self.found[name][1]]
        for shape in ((), (1,)) if flat else ((),):
            for dtypes in chosen:
                of = dict(zip(whole, dtypes, strict=True))
                yield [
                    _Piece(
                        name,
                        self.found[name][0],
                        self.found[name][1] or shape,
                        of.get(name, floats),
                        large.get(name, False),
                    )
                    for name in names
                ]

    def refused(self, module: torch.nn.Module) -> str:
        """The sentence about a module that takes these arrays in no form."""
        shown = ", ".join(f"{name!r} {('n', *shape)}".replace("'n'", "n") for name, (_, shape) in self.found.items())
        known = ", ".join(arguments(plain_module(module).forward)[0]) or "none by name"
        return (
            f"The records have several inputs ({shown}), but {type(module).__name__}.forward takes them neither by "
            f"name, nor in order, nor as a tuple or a dict; its arguments are: {known}. Name the arrays as its "
            "arguments, in the types in which it takes them: log_lineage(train=({...}, y))."
        )


def plain(module: torch.nn.Module) -> torch.nn.Module:
    """The module inside one that takes batches apart."""
    return module.inside if isinstance(module, _Spread) else module
