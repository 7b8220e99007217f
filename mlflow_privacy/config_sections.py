"""What the sections of an experiment's YAML may hold: every key with its meaning, default and range.

The sections and keys are those of Privacy Meter's files, with more beside them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr

from mlflow_privacy.metrics import DEFAULT_FPRS


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _device(value: Any) -> Any:
    if not isinstance(value, str) or not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        raise ValueError("must be auto, cpu, mps, cuda or cuda:N")
    return value


def _name(value: Any) -> Any:
    if not isinstance(value, str) or not re.fullmatch(r"[\w .-]{1,200}", value):
        raise ValueError("must be a name of letters, digits, blanks and _ . -")
    return value


Int = Annotated[int, BeforeValidator(_no_bool)]
Float = Annotated[float, BeforeValidator(_no_bool)]
Device = Annotated[str, BeforeValidator(_device)]
Name = Annotated[str, BeforeValidator(_name)]
Fpr = Annotated[float, BeforeValidator(_no_bool), Field(ge=0, lt=1)]


class _Section(BaseModel):
    # "model_name" is Privacy Meter's key: pydantic's own namespace must not claim it.
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), validate_default=False)


class RunSection(_Section):
    """The run as a whole."""

    random_seed: Int = Field(0, ge=0, description="Seed of every split, initialisation and minibatch order.")
    num_experiments: Int = Field(
        1, ge=1, description="Targets per variant, each with a split and an initialisation of its own."
    )
    experiment_name: str | None = Field(
        None,
        min_length=1,
        description="MLflow experiment; created if it does not exist. Under `mlflow run` the project's own is used.",
    )
    register_as: Name | None = Field(
        None,
        description="Name of the registered model; each target becomes a version. Default: the config file's name.",
    )
    log_dir: str | None = Field(
        None,
        min_length=1,
        description="Folder that also gets the config, a summary (`experiment.json`) and each audit's report. "
        "Default: MLflow alone keeps them.",
    )
    time_log: bool = Field(
        True, description="Log the seconds of each stage as metrics `time/<stage>`, and in `log_dir` as `time.json`."
    )


class AuditSection(_Section):
    """The audit of each target."""

    privacy_game: Literal["privacy_loss_model"] = Field(
        "privacy_loss_model", description="The question asked: what one trained model says about its training records."
    )
    algorithm: str | None = Field(
        None,
        description="The attack the verdict is about: `RMIA`, `LOSS`, or the name of any of our attacks "
        "(`mlflow-privacy attacks` lists them). Default: RMIA where references can be trained.",
    )
    attacks: list[str] | None = Field(None, description="Attacks to run. Default: those of `mlflow.evaluate`.")
    attack_options: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="Options by attack, such as `rmia: {gamma: 2.0}`."
    )
    num_ref_models: Int = Field(
        8,
        ge=0,
        description="Reference models in all; at `reference_fraction` 0.5 every record is OUT of one half of them.",
    )
    reference_fraction: Float = Field(0.5, gt=0, lt=1, description="Share of the pool each reference trains on.")
    data_size: Int | None = Field(
        None, ge=4, description="Records used in all, drawn by the seed. Default: the whole data set."
    )
    population_size: Int | None = Field(
        None,
        ge=1,
        description="Records set apart as the population, which no audited model trains on. Default: none, and the "
        "non-members stand in.",
    )
    batch_size: Int = Field(1024, ge=1, description="Batch of inference; it changes the speed alone.")
    device: Device = Field(
        "auto", description="Device of references and inference: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`."
    )
    fprs: list[Fpr] = Field(list(DEFAULT_FPRS), min_length=1, description="False-positive rates of TPR@FPR.")
    confidence: Float = Field(0.95, gt=0.5, lt=1, description="Of every interval.")
    blind_baseline: bool = Field(
        True, description="Also try to tell members from non-members without the model; a good audit cannot."
    )
    report_log: str = Field(
        "report",
        pattern=r"^[\w.-]*\w[\w.-]*$",
        description="Folder in `run.log_dir` for the audits' artifacts, one folder a version.",
    )


class TrainSection(_Section):
    """How each target, and each of its reference models, is trained."""

    model_name: str = Field("mlp", description="`mlp`, `cnn`, a registered model, or a scikit-learn estimator class.")
    model_options: dict[str, Any] = Field(
        default_factory=dict, description="Options of the model: `hidden`, `dropout`, …, or the estimator's parameters."
    )
    device: Device = Field(
        "auto", description="Device of the target's training; its references train on `audit.device`."
    )
    optimizer: str = Field("SGD", min_length=1, description="A name of `torch.optim`: `SGD`, `Adam`, `AdamW`, …")
    learning_rate: Float = Field(0.1, gt=0, description="Peak learning rate.")
    weight_decay: Float = Field(0.0, ge=0, description="Of the optimizer.")
    momentum: Float | None = Field(None, ge=0, lt=1, description="Of SGD and RMSprop. Default: 0.9 for SGD.")
    nesterov: bool | None = Field(None, description="Nesterov momentum of SGD.")
    betas: list[Float] | None = Field(None, min_length=2, max_length=2, description="Of Adam and its kin.")
    eps: Float | None = Field(None, gt=0, description="Of Adam and its kin.")
    epochs: Int = Field(50, ge=1, description="Passes over the training records.")
    batch_size: Int = Field(64, ge=1, description="Records a step.")
    schedule: str | dict[str, Any] = Field(
        "constant",
        description="Learning rate over time: `constant`, `cosine`, `linear`, `onecycle`, or a mapping such as "
        "`{name: step, step_size: 30, gamma: 0.1}`.",
    )
    warmup_epochs: Float | None = Field(None, ge=0, description="Linear rise to the peak before the schedule.")
    loss: str | None = Field(
        None,
        min_length=1,
        description="`cross_entropy` (default for classes), `mse` (default for a regression), `bce_with_logits`, "
        "`nll`, `l1`, `huber`, …",
    )
    label_smoothing: Float | None = Field(None, ge=0, lt=1, description="Of the cross-entropy.")
    augmentation: str | dict[str, Any] | list[Any] | None = Field(
        None, description="Of images: `{crop: 4, flip: 0.5, cutout: 8}`, or a part of it."
    )
    grad_clip: Float | None = Field(None, gt=0, description="Largest norm of the gradient.")
    drop_last: bool | None = Field(None, description="Leave out the last, smaller batch of an epoch.")
    variants: dict[Name, dict[str, Any]] = Field(
        default_factory=dict,
        description="Targets trained side by side, one version each: a name and the keys of `train` that differ. "
        "Their `model_options` are added to those above.",
    )


class DataSection(_Section):
    """The records, and how they are split."""

    dataset: str = Field(
        min_length=1,
        description="`digits`, `breast_cancer`, `wine`, `diabetes`, a registered name, or a .csv, .tsv, .parquet or "
        ".npz file.",
    )
    data_dir: str | None = Field(
        None,
        min_length=1,
        description="Folder of the data. Relative files are looked up here, then beside the config, then in the "
        "working directory.",
    )
    targets: str | None = Field(
        None, min_length=1, description="Label column of a table, or label array of an NPZ (default `labels` or `y`)."
    )
    features: str | list[str] | None = Field(
        None,
        description="Feature columns (default: all others), or the feature array of an NPZ (default `features` or "
        "`x`).",
    )
    drop: list[str] = Field(default_factory=list, description="Columns of a table to leave out, such as ids.")
    task: Literal["auto", "classification", "regression"] = Field(
        "auto", description="`auto`: targets with fractional parts are a regression."
    )
    missing: Literal["error", "drop"] = Field("error", description="Rows of a table with missing values.")
    normalize: Literal["auto", "standard", "none"] = Field(
        "auto",
        description="`standard`: mean 0, deviation 1 per feature over all records. `auto`: so for tables that a torch "
        "model trains on.",
    )
    train_fraction: Float = Field(
        0.5, gt=0, lt=1, description="Share of the pool that the target trains on; the rest are its non-members."
    )


# Keys of `train` that are a torch model's recipe; a scikit-learn estimator has its own in `model_options`.
TORCH_KEYS = tuple(
    key for key in TrainSection.model_fields if key not in ("model_name", "model_options", "device", "variants")
)


def training_settings(train: TrainSection) -> dict[str, Any]:
    """The recipe of a torch model as its trainer takes it: `TORCH_KEYS` that are set, and SGD's usual momentum."""
    settings = {key: getattr(train, key) for key in TORCH_KEYS if getattr(train, key) is not None}
    if train.optimizer.lower() == "sgd":
        settings.setdefault("momentum", 0.9)
    return settings


def variant_keys(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of one variant: the base's with its own on top; `model_options` of the same model are merged.

    >>> variant_keys({"epochs": 9, "model_options": {"hidden": [4]}}, {"model_options": {"dropout": 0.5}})
    {'epochs': 9, 'model_options': {'hidden': [4], 'dropout': 0.5}}
    """
    merged = {**{k: v for k, v in base.items() if k != "variants"}, **override}
    options, own = base.get("model_options"), override.get("model_options")
    if "model_name" in override and override["model_name"] != base.get("model_name"):
        merged["model_options"] = own or {}
    elif isinstance(options, Mapping) and isinstance(own, Mapping):
        merged["model_options"] = {**options, **own}
    return merged


class ExperimentConfig(_Section):
    """A whole config file.

    Attributes:
      run, audit, train, data: the sections.
    """

    run: RunSection = Field(default_factory=lambda: RunSection.model_validate({}))
    audit: AuditSection = Field(default_factory=lambda: AuditSection.model_validate({}))
    train: TrainSection = Field(default_factory=lambda: TrainSection.model_validate({}))
    data: DataSection

    _path: Path | None = PrivateAttr(None)

    @property
    def path(self) -> Path | None:
        """The file it was read from."""
        return self._path

    @property
    def name(self) -> str:
        """Name of the registered model."""
        return self.run.register_as or (
            self._path.stem if self._path else f"{self.data.dataset}-{self.train.model_name}"
        )

    def variants(self) -> dict[str, TrainSection]:
        """Each target's training section by the name of its variant; if none are listed one, named by its model."""
        if not self.train.variants:
            return {self.train.model_name: self.train}
        return {
            name: TrainSection.model_validate(variant_keys(self.train.model_dump(exclude_unset=True), override))
            for name, override in self.train.variants.items()
        }


SECTIONS: dict[str, type[BaseModel]] = {
    "run": RunSection,
    "audit": AuditSection,
    "train": TrainSection,
    "data": DataSection,
}


def config_reference() -> str:
    """Every key with its default and meaning, as Markdown tables, one a section."""
    parts = []
    for name, section in SECTIONS.items():
        rows = [f"## `{name}`", "", str(section.__doc__).strip(), "", "| key | default | meaning |", "|---|---|---|"]
        for key, info in section.model_fields.items():
            default = "needed" if info.is_required() else _default(info.get_default(call_default_factory=True))
            rows.append(f"| `{name}.{key}` | {default} | {info.description} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts) + "\n"


def _default(value: Any) -> str:
    if value is None or value in ({}, []):
        return ""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{text}`"
