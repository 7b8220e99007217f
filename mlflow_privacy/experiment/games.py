"""The games of an experiment's config: Privacy Meter's sections as our options, and canaries in its data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mlflow_privacy.errors import ConfigError
from mlflow_privacy.games.dp.canaries import mislabel
from mlflow_privacy.games.game import GAMES, game_faults

if TYPE_CHECKING:
    from mlflow_privacy.experiment.sections import DpAuditSection, ExperimentConfig, RamiaSection
    from mlflow_privacy.types import Recipe
    from mlflow_privacy.zoo import DataSet

_MISLABELLED = ("mislabelled", "cifar10_canary")
_FLIPS = {"horizontal_flip": "flip", "vertical_flip": "vertical_flip"}
_TRANSFORMATIONS = (*_FLIPS, "rotate", "shift")
_ENDS = {"top": "high", "bottom": "low"}


def game_of(config: ExperimentConfig) -> tuple[str, dict[str, Any]]:
    """The game of an experiment and its options: the section's, and over them those of `audit.game_options`."""
    name = config.audit.game
    if name is None:
        name = "dp" if config.dp_audit is not None else "range" if config.ramia is not None else "membership"
    options: dict[str, Any] = {}
    if name == "dp" and config.dp_audit is not None:
        options = dp_options(config.dp_audit)
    if name == "range" and config.ramia is not None:
        options = range_options(config.ramia)
    return name, {**options, **config.audit.game_options}


def dp_options(section: DpAuditSection) -> dict[str, Any]:
    """The section `dp_audit` as options of the game "dp"."""
    options: dict[str, Any] = {"delta": section.delta}
    if section.claimed_epsilon is not None:
        options["claimed_epsilon"] = section.claimed_epsilon
    return options


def range_options(section: RamiaSection) -> dict[str, Any]:
    """The section `ramia` as options of the game "range".

    >>> from mlflow_privacy.experiment.sections import RamiaSection
    >>> range_options(RamiaSection.model_validate({"range_function": "geometric", "transformations": ["rotate"]}))
    {'function': 'geometric', 'n_samples': 10, 'flip': False, 'vertical_flip': False, 'rotate': 15.0, 'shift': 0}
    """
    options: dict[str, Any] = {"function": section.range_function, "n_samples": section.sample_size}
    if section.transformations is not None:
        options |= {key: word in section.transformations for word, key in _FLIPS.items()}
        options["rotate"] = 15.0 if "rotate" in section.transformations else 0.0
        options["shift"] = 2 if "shift" in section.transformations else 0
    named = {
        "radius": section.radius,
        "mask_model": section.mask_model,
        "mask_tokenizer": section.mask_tokenizer,
        "num_masks": section.num_masks,
        "num_missing": section.num_missing_feats,
        "col_ranges": section.col_ranges,
        "categorical": section.is_categorical,
    }
    options |= {key: value for key, value in named.items() if value is not None}
    if section.trim_direction == "none":
        options["trim_ratio"] = 0.0
    elif section.trim_ratio is not None:
        options["trim_ratio"] = section.trim_ratio
        options["trim_direction"] = _ENDS[section.trim_direction or "bottom"]
    return options


def game_section_faults(values: Mapping[str, Any]) -> list[str]:
    """What is wrong with the games of a config file, each by its dotted path."""
    audit, dp, ramia = (
        section if isinstance(section, Mapping) else {}
        for section in (values.get("audit"), values.get("dp_audit"), values.get("ramia"))
    )
    faults = []
    name = audit.get("game")
    if name is None:
        name = (
            "dp" if values.get("dp_audit") is not None else "range" if values.get("ramia") is not None else "membership"
        )
    given = audit.get("game_options")
    if isinstance(given, Mapping) and name in GAMES:
        faults += [f"audit.game_options of the game {name}: {fault}" for fault in game_faults(name, given)]
    if name == "dp" and values.get("dp_audit") is None:
        faults.append("audit.game dp needs canaries: add the section dp_audit, such as dp_audit: {canary_size: 1000}.")
    if (
        "noise_multiplier" in dp
        and "target_epsilon" in dp
        and None not in (dp["noise_multiplier"], dp["target_epsilon"])
    ):
        faults.append("dp_audit takes noise_multiplier or target_epsilon, not both.")
    function = ramia.get("range_function")
    if isinstance(function, str):
        faults += [f"ramia.range_{fault}" for fault in game_faults("range", {"function": function})]
    words = ramia.get("transformations")
    stray = [word for word in words if word not in _TRANSFORMATIONS] if isinstance(words, list) else []
    if stray:
        faults.append(f"ramia.transformations knows {', '.join(_TRANSFORMATIONS)}, not {', '.join(map(str, stray))}.")
    return faults


def with_canaries(data: DataSet, config: ExperimentConfig, canaries: np.ndarray | None) -> DataSet:
    """The data with wrong labels on its canaries, if that is what `dp_audit` asks for.

    Args:
      canaries: rows of the data; the same in every experiment.

    Raises: ConfigError: a regression has no wrong labels.
    """
    section = config.dp_audit
    if section is None or canaries is None or section.canary_dataset not in _MISLABELLED:
        return data
    if data.task != "classification" or len(data.classes) < 2:
        raise ConfigError(
            f"dp_audit.canary_dataset {section.canary_dataset} gives canaries a wrong label, but {data.name!r} has no "
            "classes. Use natural."
        )
    y = np.array(data.records.y)
    rng = np.random.default_rng(np.random.SeedSequence([config.run.random_seed, 0x0815]))
    y[canaries] = mislabel(y[canaries], len(data.classes), rng)
    return dataclasses.replace(data, records=dataclasses.replace(data.records, y=y))


def privacy_spent(recipe: Recipe, settings: dict[str, Any], n: int) -> tuple[dict[str, Any], dict[str, float]]:
    """Settings for the lineage with the accountant's ε in them, and the metrics `dp/…`; as they are without DP-SGD.

    Args:
      n: records that the target trained on.
    """
    own = recipe.spec.get("settings")
    dp = own.get("dp") if isinstance(own, Mapping) else None
    if not dp:
        return settings, {}
    from mlflow_privacy.trainers.dp import plan_privacy

    plan = plan_privacy(dp, n=n, batch_size=own["batch_size"], epochs=own["epochs"])  # type: ignore[index]
    metrics = {"dp/noise_multiplier": plan.noise_multiplier, "dp/delta": plan.delta}
    if not np.isfinite(plan.epsilon):
        return settings, metrics
    said = {**settings["dp"], "epsilon": round(plan.epsilon, 6)}
    return {**settings, "dp": said}, {"dp/epsilon": plan.epsilon, **metrics}
