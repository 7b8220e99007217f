"""The folder `run.log_dir`: whose results it holds, and a scratch folder beside them while an experiment runs."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow_privacy.errors import ConfigError
from mlflow_privacy.experiment.load import load_config
from mlflow_privacy.experiment.sections import ExperimentConfig
from mlflow_privacy.fingerprint import digest
from mlflow_privacy.privacy_meter.log_dir.place import CONFIG, Place

_RESULTS = ("models", "signals", "report/exp", "experiment.json")
_PARTIAL = ".partial-"
# Where results go and how fast they come; everything else decides what they are.
_NOT_RESULTS = {
    "run": ("experiment_name", "register_as", "log_dir", "time_log"),
    "audit": ("device", "batch_size", "report_log"),
    "train": ("device",),
    "data": ("data_dir",),
}


@contextlib.contextmanager
def open_log_dir(config: ExperimentConfig) -> Iterator[Place]:
    """Checks `run.log_dir` before anything is trained, and gives a scratch folder for the time of the experiment.

    Raises:
      ConfigError: the folder cannot be written, or holds the results of another config.
    """
    if not config.run.log_dir:
        with tempfile.TemporaryDirectory(prefix="mlflow-privacy-") as scratch:
            yield Place(None, Path(scratch))
        return
    folder = Path(config.run.log_dir).expanduser()
    check_folder(folder, config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{_PARTIAL}*"):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        scratch = tempfile.mkdtemp(prefix=_PARTIAL, dir=folder)
    except OSError as error:
        raise ConfigError(
            f"run.log_dir {str(folder)!r} cannot be written: {error.strerror or error}. Name another folder."
        ) from error
    try:
        yield Place(folder, Path(scratch), _is_own(folder / CONFIG, config))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.rmdir()  # only if nothing came of it


def config_digest(config: ExperimentConfig) -> str:
    """SHA-256 of all that decides an experiment's results; names, devices and folders do not count.

    >>> from mlflow_privacy.experiment.load import parse_config
    >>> a, b, c = (parse_config({"data": {"dataset": "wine"}, "run": run}) for run in (
    ...     {}, {"log_dir": "out", "time_log": False}, {"random_seed": 1}))
    >>> config_digest(a) == config_digest(b), config_digest(a) == config_digest(c)
    (True, False)
    """
    return digest(_deciding(config))


def check_folder(folder: Path, config: ExperimentConfig) -> None:
    """Refuses a folder whose results are not of this config.

    Raises:
      ConfigError: with the keys that differ.
    """
    remedy = "Name another folder in run.log_dir, or move or delete this one; nothing was written."
    known = folder / CONFIG
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"run.log_dir {str(folder)!r} is a file. Name a folder.")
    if _is_own(known, config):
        return
    if not known.is_file():
        found = [name for name in _RESULTS if (folder / name).exists()]
        if found:
            raise ConfigError(
                f"run.log_dir {str(folder)!r} holds {', '.join(found)} of an unknown config (there is no {CONFIG} "
                f"beside). {remedy}"
            )
        return
    try:
        other = load_config(known)
    except ConfigError as error:
        raise ConfigError(
            f"run.log_dir {str(folder)!r} has a {CONFIG} that this version cannot read, so its results may be of "
            f"another config ({str(error).splitlines()[0]}). {remedy}"
        ) from error
    if config_digest(other) != config_digest(config):
        a, b = _dotted(_deciding(other)), _dotted(_deciding(config))
        keys = sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))
        named = [f"{key} is {_short(a.get(key))} there and {_short(b.get(key))} here" for key in keys[:5]]
        more = f"; and {len(keys) - 5} more keys" if len(keys) > 5 else ""
        raise ConfigError(
            f"run.log_dir {str(folder)!r} holds the results of another config: {'; '.join(named)}{more}. {remedy}"
        )


def _is_own(known: Path, config: ExperimentConfig) -> bool:
    """Whether the config at hand was read from that very file."""
    return config.path is not None and known.is_file() and known.resolve() == config.path


def _deciding(config: ExperimentConfig) -> dict[str, Any]:
    """The sections without the keys that do not change results."""
    values = config.model_dump(mode="json")
    for section, keys in _NOT_RESULTS.items():
        for key in keys:
            values[section].pop(key, None)
    for variant in values["train"].get("variants", {}).values():
        variant.pop("device", None)
    return values


def _dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            out |= _dotted(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out


def _short(value: Any) -> str:
    text = "not set" if value is None else repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
