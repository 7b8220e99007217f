"""What a package adds to mlflow-privacy: an attack, a trainer with its signals, a game, and a section of the report.

The model is a scorecard: every feature is cut into bins, each bin has points, and the points add up to the odds. Its
points come from a logistic regression of scikit-learn, but its class has neither `fit` nor `predict_proba`, so nobody
but this package knows how to train another one like it, or what it says about a record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.pyfunc import PythonModel
from pydantic import Field

from mlflow_privacy.attacks import attack, attack_r
from mlflow_privacy.errors import ConfigError, StoreError
from mlflow_privacy.fingerprint import data_digest
from mlflow_privacy.games import Game, GameEvidence, GameOptions, Question
from mlflow_privacy.metrics import auc
from mlflow_privacy.report import Section, Table
from mlflow_privacy.signals.classification import columns_of, outputs_from_phi, phi_from_logits
from mlflow_privacy.trainers.base import OneByOne
from mlflow_privacy.types import AuditResult, AuditTarget, GameResult, ModelOutputs, Recipe, Records, Task

FILE = "scorecard.npz"


# --- the model -------------------------------------------------------------------------------------------------------


class Scorecard(PythonModel):
    """Points per bin.

    Args:
      edges: (d, b) where each of the d features is cut.
      points: (d, b + 1) of each bin, added up to the log-odds of the second label.
      base: log-odds without any points.
      labels: (2,) the two labels.
    """

    def __init__(self, edges: np.ndarray, points: np.ndarray, base: float, labels: np.ndarray) -> None:
        self.edges, self.points, self.base, self.labels = edges, points, base, labels

    def log_odds(self, x: Any) -> np.ndarray:
        """(n,) log-odds of the second label."""
        bins = bins_of(np.asarray(x, float), self.edges)
        return self.base + self.points[np.arange(self.points.shape[0]), bins].sum(axis=1)

    def predict(self, context, model_input, params=None):  # MLflow reads type hints here as a schema of the data
        return self.labels[(self.log_odds(model_input) > 0).astype(int)]


def bins_of(x: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(n, d) number of the bin that each value lies in."""
    return np.stack([np.searchsorted(cuts, column) for cuts, column in zip(edges, x.T, strict=True)], axis=1)


def fit(x: Any, y: np.ndarray, *, bins: int = 10, strength: float = 100.0) -> Scorecard:
    """A scorecard with bins of equal size, and points that fit the records; the more of both, the more it memorises."""
    from sklearn.linear_model import LogisticRegression

    x = np.asarray(x, float)
    edges = np.quantile(x, np.linspace(0, 1, bins + 1)[1:-1], axis=0).T
    one_hot = np.eye(bins)[bins_of(x, edges)].reshape(len(x), -1)
    found = LogisticRegression(C=strength, max_iter=500).fit(one_hot, y)
    return Scorecard(edges, found.coef_.reshape(x.shape[1], bins), float(found.intercept_[0]), found.classes_)


# --- a trainer and its signals ---------------------------------------------------------------------------------------


class ScorecardTrainer(OneByOne):
    """Trains scorecards like the audited one."""

    recipe_keys = ("strength",)  # what log_lineage(recipe=...) may hold for it

    def recipe_for(
        self, model: Any, settings: Mapping[str, Any], *, task: Task, source: str = "", data: Records | None = None
    ) -> Recipe | None:
        if not isinstance(model, Scorecard):
            return None
        spec = {"bins": model.points.shape[1], "strength": float(settings.get("strength", 100.0))}
        return Recipe("scorecard", spec, source=source)

    def train_one(self, recipe: Recipe, data: Records, seed: int, *, device: str) -> Scorecard:
        return fit(data.x, data.y, **recipe.spec)

    def save(self, recipe: Recipe, model: Scorecard, folder: Path) -> bool:
        np.savez(folder / FILE, edges=model.edges, points=model.points, base=model.base, labels=model.labels)
        return True

    def load(self, recipe: Recipe, folder: Path) -> Scorecard:
        try:
            with np.load(Path(folder) / FILE, allow_pickle=False) as file:
                return Scorecard(file["edges"], file["points"], float(file["base"]), file["labels"])
        except (OSError, KeyError, ValueError) as error:
            raise StoreError(f"{folder} holds no scorecard: {error}") from error


def scorecard_outputs(
    model: Any, records: Records, *, task: Task, classes: np.ndarray | None, **how: Any
) -> ModelOutputs | None:
    """What a scorecard says about each record, from its log-odds."""
    if not isinstance(model, Scorecard) or task != "classification":
        return None
    logits = np.stack([np.zeros(len(records)), model.log_odds(records.x)], axis=1)
    column = columns_of(records.y, model.labels, classes)
    return outputs_from_phi(phi_from_logits(logits, column), logits.argmax(axis=1) == column)


# --- an attack -------------------------------------------------------------------------------------------------------


@attack(
    "beats_all",
    title="Beats all references",
    threat_model="Black box with confidences, offline: reference models trained without the record.",
    paper="An example; see https://arxiv.org/abs/2111.09679 for the mean in place of the surest",
    inputs=("target", "reference", "member"),
    needs=("reference", "out"),
)
def beats_all(target: np.ndarray, reference: np.ndarray, member: np.ndarray, *, share: float = 1.0) -> np.ndarray:
    """How much surer the model is of a record than the surest `share` of those that did not see it."""
    return target - np.nanquantile(np.where(member, np.nan, reference), share, axis=1)


# --- a game ----------------------------------------------------------------------------------------------------------


class BlurredOptions(GameOptions):
    """noise: how far the attacker's copy of a record is off, in standard deviations of each feature."""

    noise: float = Field(default=0.1, ge=0.0)


class BlurredGame(Game):
    """Is a record recognised by somebody who knows it only roughly?"""

    name = "blurred"
    Options = BlurredOptions
    uses_references = True

    def check(self, target: AuditTarget, n_references: int, attacks: Sequence[str] | None) -> None:
        if np.asarray(target.pool.x).dtype.kind not in "fiu":
            raise ConfigError('The game "blurred" adds noise to numbers; this model takes other features.')
        if not n_references:
            remedy = target.recipe_problem or "Set num_ref_models to 8 or so."
            raise ConfigError(f'The game "blurred" needs reference models, and there are none. {remedy}')

    def questions(self, target: AuditTarget, pool: Records) -> tuple[Question, ...]:
        x = np.asarray(pool.x, float)
        noise = np.random.default_rng(self.setting.seed).normal(size=x.shape) * x.std(axis=0) * self.options.noise
        blurred = Records(x + noise, pool.y, pool.row_ids)
        return (Question("blurred", blurred, data_digest(blurred)),)

    def answer(self, evidence: GameEvidence) -> GameResult:
        references = np.stack([one[0].signal for one in evidence.further], axis=1)
        scores = attack_r(evidence.own[0].signal, references, evidence.signals.member, method="difference")
        found = auc(scores.rank(), evidence.member, self.setting.confidence)
        noise = self.options.noise
        return GameResult(
            name=self.name,
            title="Records known roughly",
            sentence=f"With copies of the records that are off by {noise:g} standard deviations, an attacker tells "
            f"members from others with AUC {found}.",
            summary=f"AUC {found.value:.3f} at noise {noise:g}",
            rows=((f"AUC at noise {noise:g}", found),),
            metrics={"auc": found},
            options=self.options.model_dump(),
            assumption="the noise is normal and independent between features",
        )


# --- a section of the report -----------------------------------------------------------------------------------------


def label_balance(result: AuditResult) -> Section | None:
    """Members and non-members by label: an attack can use the label alone where they differ."""
    if result.task != "classification":
        return None
    rows = []
    for label in np.unique(result.y):
        inside = result.membership[result.y == label]
        rows.append((label, int(inside.sum()), int((~inside).sum())))
    table = Table(("label", "members", "non-members"), rows, caption="Records audited")
    return Section("Labels of members and non-members", ["Counted over all audited records."], [table], False)
