"""What the sections of an experiment's YAML may hold: every key with its meaning, default and range.

The sections and keys are those of Privacy Meter's files, with more beside them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr

from mlflow_privacy.auditing.options import executor_name
from mlflow_privacy.fields import Duration, Float, Int
from mlflow_privacy.games.game import game_name
from mlflow_privacy.metrics import DEFAULT_FPRS


def _device(value: Any) -> Any:
    if not isinstance(value, str) or not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        raise ValueError("must be auto, cpu, mps, cuda or cuda:N")
    return value


def _name(value: Any) -> Any:
    if not isinstance(value, str) or not re.fullmatch(r"[\w .-]{1,200}", value):
        raise ValueError("must be a name of letters, digits, blanks and _ . -")
    return value


Device = Annotated[str, BeforeValidator(_device)]
Executor = Annotated[str, BeforeValidator(executor_name)]
Name = Annotated[str, BeforeValidator(_name)]
Fpr = Annotated[Float, Field(ge=0, lt=1)]


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
        description="Folder that also gets the config, a summary (`experiment.json`), each audit's report, and models, "
        "signals and figures in Privacy Meter's layout. Default: MLflow alone keeps them.",
    )
    time_log: bool = Field(
        True,
        description="Log the seconds of each stage as metrics `time/<stage>`, and in `log_dir` as `time.json` and "
        "`report/log_time_analysis.log`.",
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
        4,
        ge=0,
        description="OUT references of each record, as Privacy Meter counts: at `reference_fraction` 0.5 twice as many "
        "are trained, in pairs on complementary halves. 0 trains none.",
    )
    reference_fraction: Literal["auto"] | Annotated[Float, Field(gt=0, lt=1)] = Field(
        "auto",
        description="Share of the pool each reference trains on. `auto`: the targets' own, at most four fifths, with "
        "as many references in all as at one half, in whole groups (10 in place of 8 at four fifths).",
    )
    data_size: Int | None = Field(
        None,
        ge=4,
        description="Records audited, drawn by the seed; targets and references train on their share of all. "
        "Default: all of the pool.",
    )
    population_size: Int | None = Field(
        None,
        ge=1,
        description="Records of the population, which no audited model trains on. Default: the data set's own test "
        "part; where it has none, the non-members stand in, and with a number so many records are set apart.",
    )
    num_queries: Int = Field(
        2,
        ge=1,
        description="Queries per image: itself and augmentations of it that the model was trained with, their signals "
        "averaged. No effect on other records, or without augmentation.",
    )
    batch_size: Int = Field(1024, ge=1, description="Batch of inference; it changes the speed alone.")
    device: Device = Field(
        "auto", description="Device of references and inference: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`."
    )
    executor: Executor = Field(
        "auto",
        description="What trains missing references: `auto`, `local`, `loky`, `threading`, `multiprocessing`, `dask`, "
        "`ray`, or a backend registered with joblib; it changes the speed alone. See executors.md.",
    )
    n_workers: Int | None = Field(
        None, ge=1, description="References trained at a time; with `auto` the most. Default: by the machine."
    )
    time_budget: Duration = Field(
        None,
        description="Time for the reference models of each target, in seconds or as `10 min`, `2 h`: whole groups, as "
        "many as fit, at least one. Default: none.",
    )
    fprs: list[Fpr] = Field(list(DEFAULT_FPRS), min_length=1, description="False-positive rates of TPR@FPR.")
    confidence: Float = Field(0.95, gt=0.5, lt=1, description="Of every interval.")
    blind_baseline: bool = Field(
        True, description="Also try to tell members from non-members without the model; a good audit cannot."
    )
    score_duplicates: bool = Field(
        False, description="Also score records that are trained on more than once, apart from the others."
    )
    game: Annotated[str, BeforeValidator(game_name)] | None = Field(
        None,
        description="The question beside membership: a lower bound on ε (`dp`), membership of a range, or the share of "
        "the pool that was used. Default: `dp` if the file has the section `dp_audit`, `range` if it has `ramia`, "
        "`usage` if it is one of Privacy Meter's and called or filed as `duci`.",
    )
    game_options: dict[str, Any] = Field(
        default_factory=dict, description="Options of the game, on top of those of its section; see games.md."
    )
    report_log: str = Field(
        "report",
        pattern=r"^[\w.-]*\w[\w.-]*$",
        description="Folder in `run.log_dir` for the audits' artifacts, one folder a version.",
    )


class TrainSection(_Section):
    """How each target, and each of its reference models, is trained."""

    model_name: str = Field(
        "mlp",
        min_length=1,
        description="`mlp`, `cnn`, `alexnet`, `vgg16`, `wrn28-1`, `wrn28-2`, `wrn28-10`, `speedyresnet`, a name of "
        "`torchvision.models`, a registered model, a scikit-learn estimator class, or for text `gpt2` and any other "
        "model of transformers by name or local folder.",
    )
    tokenizer: str | None = Field(
        None, min_length=1, description="Of a language model, by name or local folder. Default: the model's own."
    )
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
        "cosine",
        description="Learning rate over time: `cosine`, `constant`, `linear`, `onecycle`, or a mapping such as "
        "`{name: step, step_size: 30, gamma: 0.1}`; `privacy_meter` is Privacy Meter's own, a tenth of the learning "
        "rate included.",
    )
    warmup_epochs: Float | None = Field(None, ge=0, description="Linear rise to the peak before the schedule.")
    warmup_steps: Int | None = Field(None, ge=0, description="The same in steps.")
    warmup_ratio: Float | None = Field(None, ge=0, lt=1, description="The same as a share of all steps.")
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
    precision: Literal["auto", "float32", "tf32", "bf16"] | None = Field(
        None,
        description="Of a PyTorch module: `auto` (on a GPU TF32 in convolutions, float32 elsewhere), `float32`, `tf32` "
        "or `bf16` (forward pass in bfloat16).",
    )
    dp: dict[str, Any] | None = Field(
        None,
        description="Differential privacy by DP-SGD, of the target and its references: `noise_multiplier` or "
        "`target_epsilon`, `max_grad_norm` (1), `delta` (1e-5), `fix` to replace layers it cannot train. Needs the "
        "extra `dp`.",
    )
    drop_last: bool | None = Field(None, description="Leave out the last, smaller batch of an epoch.")
    auto_find_batch_size: bool | None = Field(
        None, description="Of a language model: halve the batch until it fits into memory."
    )
    gradient_accumulation_steps: Int | None = Field(
        None, ge=1, description="Of a language model: batches whose gradients are added up before a step."
    )
    max_length: Int | None = Field(
        None, ge=2, description="Of a language model: texts are cut off after so many tokens. Default: 512."
    )
    objective: Literal["causal_lm", "sequence_classification"] | None = Field(
        None, description="What a language model learns. Default: `causal_lm`."
    )
    peft: dict[str, Any] | None = Field(
        None,
        description="Parameter-efficient fine-tuning of a language model: `type` (`lora` or any other method of peft) "
        "and the keys of its configuration, such as `{type: lora, r: 16, target_modules: [c_attn]}`.",
    )
    variants: dict[Name, dict[str, Any]] = Field(
        default_factory=dict,
        description="Targets trained side by side, one version each: a name and the keys of `train` that differ. "
        "Their `model_options` are added to those above.",
    )


class DataSection(_Section):
    """The records, and how they are split."""

    dataset: str = Field(
        min_length=1,
        description="`cifar10`, `cifar100`, `purchase100`, `texas100`, `agnews`, `hf:NAME` (of the Hugging Face hub, "
        "or a local folder), `digits`, `breast_cancer`, `wine`, `diabetes`, a registered name, or a .csv, .tsv, "
        ".parquet, .jsonl or .npz file.",
    )
    data_dir: str | None = Field(
        None,
        min_length=1,
        description="Folder of the data. Relative files are looked up here, then beside the config, then in the "
        "working directory. What is not there is downloaded into it, where a loader can.",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Options of the data set's loader, such as `{split: train}`."
    )
    size: Int | None = Field(
        None, ge=4, description="Records used in all, drawn by the seed. Default: the whole data set."
    )
    text: str | None = Field(None, min_length=1, description="Text column of a file or `hf:` data set.")
    tokenize: bool | None = Field(
        None, description="Privacy Meter's switch for text; texts are tokenized by the model's trainer in any case."
    )
    tokenizer: str | None = Field(
        None, min_length=1, description="The same as `train.tokenizer`, where Privacy Meter's files have it."
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


class DpAuditSection(_Section):
    """Privacy Meter's section of the game of DP lower bounds."""

    canary_dataset: Literal["none", "natural", "mislabelled", "cifar10_canary"] | None = Field(
        None,
        description="What canaries are: records as they are (`none` or `natural`, the default), or with a random wrong "
        "label (`mislabelled`; `cifar10_canary` is Privacy Meter's word for it), which are learnt by memorising alone.",
    )
    canary_size: Int = Field(
        1000,
        ge=1,
        description="Canaries, drawn from the pool by the seed. A fair coin for each decides whether the target trains "
        "on it; all other records of the pool are always trained on, by the target and its references.",
    )
    training_alg: Literal["dp", "nondp"] = Field("nondp", description="Training with DP-SGD, or without.")
    noise_multiplier: Float | None = Field(None, ge=0, description="Of DP-SGD, instead of `target_epsilon`.")
    target_epsilon: Float | None = Field(
        None, gt=0, description="ε that DP-SGD must keep. Default: 8, unless `noise_multiplier` is given."
    )
    max_grad_norm: Float = Field(1.0, gt=0, description="Of DP-SGD: each record's gradient is clipped to it.")
    delta: Float = Field(1e-5, gt=0, lt=1, description="δ of DP-SGD's ε and of the bound.")
    claimed_epsilon: Float | None = Field(
        None, ge=0, description="ε to hold the bound against. Default: what the accountant of DP-SGD says."
    )


class RamiaSection(_Section):
    """Privacy Meter's section of the range membership game."""

    range_function: str = Field("l2", min_length=1, description="What a range is made of.")
    sample_size: Int = Field(10, ge=1, description="Points sampled in each range.")
    radius: Float | None = Field(None, gt=0, description="Of `l2`.")
    transformations: list[str] | None = Field(None, description="Of `geometric`.")
    mask_model: str | None = Field(None, min_length=1, description="Of `word_replace`.")
    mask_tokenizer: str | None = Field(None, min_length=1, description="Of `word_replace`.")
    num_masks: Int | None = Field(None, ge=1, description="Of `word_replace`: words replaced.")
    device: Device | None = Field(None, description="Of the mask model.")
    num_missing_feats: Int | None = Field(None, ge=1, description="Of `missing_values`.")
    col_ranges: list[list[Float]] | None = Field(None, description="Of `missing_values`: bounds or values a column.")
    is_categorical: bool | None = Field(None, description="Of `missing_values`: `col_ranges` lists values.")
    trim_ratio: Float | None = Field(
        None, ge=0, lt=1, description="Share of a range's scores left out. Default: tuned on the references."
    )
    trim_direction: Literal["top", "bottom", "none"] | None = Field(
        None, description="Which end is left out: the highest scores, the lowest, or neither. Default: tuned."
    )


_NOT_A_RECIPE = ("model_name", "model_options", "device", "variants")
# Keys of `train` that only language models have.
TEXT_KEYS = ("tokenizer", "auto_find_batch_size", "gradient_accumulation_steps", "max_length", "objective", "peft")
# Keys of `train` that are a torch model's recipe; a scikit-learn estimator has its own in `model_options`.
TORCH_KEYS = tuple(key for key in TrainSection.model_fields if key not in (*_NOT_A_RECIPE, *TEXT_KEYS))


def training_settings(train: TrainSection) -> dict[str, Any]:
    """The recipe of a torch model as its trainer takes it.

    `TORCH_KEYS` that are set, and SGD's usual momentum (not with Privacy Meter's schedule, which trains without).
    """
    settings = {key: getattr(train, key) for key in TORCH_KEYS if getattr(train, key) is not None}
    if train.optimizer.lower() == "sgd" and train.schedule != "privacy_meter":
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
      dp_audit, ramia: Privacy Meter's sections of other games, None if the file has none.
    """

    run: RunSection = Field(default_factory=lambda: RunSection.model_validate({}))
    audit: AuditSection = Field(default_factory=lambda: AuditSection.model_validate({}))
    train: TrainSection = Field(default_factory=lambda: TrainSection.model_validate({}))
    data: DataSection
    dp_audit: DpAuditSection | None = None
    ramia: RamiaSection | None = None

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
            return {self.train.model_name: self._private(self.train)}
        return {
            name: self._private(
                TrainSection.model_validate(variant_keys(self.train.model_dump(exclude_unset=True), override))
            )
            for name, override in self.train.variants.items()
        }

    def _private(self, train: TrainSection) -> TrainSection:
        """With the DP-SGD that `dp_audit` asks for; a variant's own `dp` wins."""
        section = self.dp_audit
        if section is None or section.training_alg != "dp" or train.dp is not None:
            return train
        noise: dict[str, float] = {"target_epsilon": section.target_epsilon or 8.0}
        if section.noise_multiplier is not None:
            noise = {"noise_multiplier": section.noise_multiplier}
        dp = {**noise, "max_grad_norm": section.max_grad_norm, "delta": section.delta}
        return TrainSection.model_validate({**train.model_dump(exclude_unset=True), "dp": dp})


SECTIONS: dict[str, type[BaseModel]] = {
    "run": RunSection,
    "audit": AuditSection,
    "train": TrainSection,
    "data": DataSection,
    "dp_audit": DpAuditSection,
    "ramia": RamiaSection,
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
