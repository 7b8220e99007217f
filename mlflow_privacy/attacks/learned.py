r"""The learned attack: a classifier that tells members from non-members, trained on the references as stand-in targets.

Shokri, Stronati, Song and Shmatikov (2017), *Membership Inference Attacks against Machine Learning Models*,
https://arxiv.org/abs/1610.05820, trained an attack model on the outputs of shadow models, whose membership is known.
Here each reference in turn is the stand-in, and what the attack model sees of a record is how the stand-in's signal
lies among those of the *other* references: what RMIA, LiRA and BaVarIA see, and what they make of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from mlflow_privacy.attacks._arrays import check_references, check_signals, chunks, log_sigmoid, to_numpy
from mlflow_privacy.attacks.averages import log_average
from mlflow_privacy.attacks.bavaria import log_density, posterior
from mlflow_privacy.attacks.lira import Gaussian, log_normal, pooled_variance, record_moments
from mlflow_privacy.attacks.stand_ins import groups_of, some_of
from mlflow_privacy.errors import DesignError
from mlflow_privacy.stats import mann_whitney
from mlflow_privacy.types import Link, Scores, Signals

Learner = Literal["auto", "boosting", "logistic"]
FEATURES = (
    "signal", "mean_out", "mean_in", "above_out", "above_in", "spread_out", "spread_in", "rmia", "lira", "bavaria",
)  # fmt: skip
_BAVARIA = FEATURES.index("bavaria")
_ROWS = 100_000  # of training; more do not help, and take longer than scoring all records
_RECORDS = 20_000  # that the stand-ins are asked about: enough to tell how records differ
_GROUPS = 8  # of stand-ins; the target is scored once without each
_FOLDS = 4  # groups that are held out in turn to choose the learner
_ROWS_TO_CHOOSE = 20_000  # of training for that choice
_ENOUGH = 16_000  # rows of training, below which boosting is not tried: it finds less there, and takes seconds
_Parts = Sequence[tuple[np.ndarray, np.ndarray]]  # features and memberships of the stand-ins of each group
_last: dict[bytes, list[dict[str, np.ndarray]]] = {}  # of one audit: the verdict's choice and the attack ask the same


def learned(
    target: Any, reference: Any, member: Any, *, learner: Learner = "auto", seed: int = 0, link: Link = "logit"
) -> Scores:
    r"""Log-odds of membership by a classifier that was trained on references in the target's place.

    For each group of references (a complementary pair, at a half) the others are the references; each of the group is a
    stand-in, of which all records are rows: ten features, and whether it trained on the record. Within a group one
    reference's membership gives the others' away, so the whole group of a stand-in is left out of its references. The
    target is scored as a stand-in is, once without each group, and the log-odds are averaged. Of many groups eight are
    taken, and of many records 20,000 to learn from.

    The learner is gradient boosting or a logistic regression: what told the members of held-out groups better, or the
    latter where there are fewer than 16,000 rows. The target's membership is seen by nothing of all this, so its
    intervals need no correction.

    Threat model: as `lira`; black box with confidences, reference models of the same recipe, IN and OUT for each
    record; two groups of them at least. Shokri et al. (2017), https://arxiv.org/abs/1610.05820.

    Args:
      target: (n,) signals of the audited model.
      reference: (n, m) signals of the reference models.
      member: (n, m) bool, whether reference j trained on record i.
      learner: "boosting", "logistic", or "auto" for the better one on the references.
      seed: of the rows that are taken where there are more than 100,000.
      link: "logit" (p = σ(φ)), or "log" (p = exp(φ)).

    Returns: value (n,) log-odds, and tie (n,), BaVarIA's log-likelihood ratio.

    Raises: DesignError: shapes, values that are not finite, or references of fewer than two groups that give every
      record an IN and an OUT reference.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> half = rng.random((500, 2)) < 0.5
      >>> member = np.stack([half, ~half], axis=2).reshape(500, 4)
      >>> truth = rng.random(500) < 0.5
      >>> scores = learned(rng.normal(size=500) + 2 * truth, rng.normal(size=(500, 4)) + 2 * member, member)
      >>> 0.8 < mann_whitney(scores.value[truth], scores.value[~truth]) < 1
      True
    """
    if learner not in ("auto", "boosting", "logistic"):
        raise DesignError(f'learner must be "auto", "boosting" or "logistic", got {learner!r}.')
    check_signals(target=target, reference=reference, member=member)
    phi, inside = to_numpy(target).astype(np.float64), to_numpy(member).astype(bool)
    signals = to_numpy(reference)
    groups, stand_ins = _stand_ins(signals, inside, link, seed)
    chosen = _better(_held_out(stand_ins), stand_ins) if learner == "auto" else learner
    model = _fit(chosen, stand_ins)
    odds, ratio = np.zeros(len(phi)), np.zeros(len(phi))
    for group in groups:
        features = _Rest(signals, inside, group, link).features(phi, slice(None))
        odds += model.decision_function(features) / len(groups)
        ratio += features[:, _BAVARIA] / len(groups)
    return Scores(odds, ratio)


def learned_on_references(
    signals: Signals, *, learner: Learner = "auto", seed: int = 0
) -> list[tuple[int, Scores, np.ndarray]]:
    """The attack on references in the target's place: column, scores and memberships of held-out groups' stand-ins.

    The classifier that scores a group was trained on stand-ins of the other groups; at most four groups are held out.
    """
    inside = to_numpy(signals.member).astype(bool)
    groups, stand_ins = _stand_ins(to_numpy(signals.reference), inside, signals.link, seed)
    held_out = _held_out(stand_ins)
    chosen = _better(held_out, stand_ins) if learner == "auto" else learner
    found = []
    for group, fold, (x, y) in zip(groups, held_out, stand_ins):
        odds = fold.get(chosen, fold["logistic"])
        for j, *part in zip(group, *(np.split(column, len(group)) for column in (odds, x[:, _BAVARIA], y))):
            found.append((int(j), Scores(*part[:2]), part[2]))
    return found


def _stand_ins(
    reference: np.ndarray, member: np.ndarray, link: Link, seed: int
) -> tuple[list[np.ndarray], list[tuple[np.ndarray, np.ndarray]]]:
    """Groups of references, at most eight, and the stand-ins of each."""
    check_references(member, need_in=True, need_out=True)
    n, m = member.shape
    groups = groups_of(member)
    usable = _usable_groups(member, groups)
    if not usable:
        raise DesignError(_too_few(m, len(groups)))
    picked = some_of(usable, _GROUPS)
    order = np.random.default_rng(seed).permutation(n)
    asked = np.sort(order[:_RECORDS])
    rows = np.searchsorted(asked, np.sort(order[: min(max(_ROWS // m, 1), _RECORDS)]))
    if n > _RECORDS:
        reference, member = reference[asked], member[asked]
    return picked, [_Rest(reference, member, group, link).stand_ins(rows) for group in picked]


def too_few_groups(member: Any) -> str:
    """Why the learned attack cannot run, in a sentence with the remedy; "" if it can."""
    inside = to_numpy(member).astype(bool)
    groups = groups_of(inside)
    return "" if _usable_groups(inside, groups) else _too_few(inside.shape[1], len(groups))


def _too_few(m: int, groups: int) -> str:
    return (
        f"Attack learned needs two groups of references, each with an IN and an OUT reference for every record; "
        f"{m} references are {groups}. Use num_ref_models={max(2 * m, 4)}."
    )


def _usable_groups(inside: np.ndarray, groups: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The groups without which every record still has an IN and an OUT reference."""
    m, in_all = inside.shape[1], inside.sum(axis=1)
    found = []
    for group in groups:
        n_in = in_all - inside[:, group].sum(axis=1)
        if m > len(group) and n_in.min(initial=1) > 0 and n_in.max(initial=0) < m - len(group):
            found.append(group)
    return found


@dataclasses.dataclass
class _Rest:
    """The references but for one group, and what they say of each record."""

    signals: np.ndarray
    inside: np.ndarray
    group: np.ndarray
    link: Link

    def __post_init__(self) -> None:
        n, m = self.signals.shape
        kept = np.setdiff1d(np.arange(m), self.group)

        def told(s: slice) -> tuple[np.ndarray, ...]:
            reference, member = self.signals[s][:, kept], self.inside[s][:, kept]
            average = log_average(reference, member, online=True, link=self.link)
            return *record_moments(reference, member), *record_moments(reference, ~member), average

        *moments, self.average = (
            np.concatenate(column) for column in zip(*(told(s) for s in chunks(n, m, self.signals)))
        )
        inner, outer = moments[:3], moments[3:]
        (self.mean_in, self.mean_out), (self.spread_in, self.spread_out) = zip(
            *((mean, np.sqrt(square / np.maximum(count - 1, 1))) for mean, square, count in (inner, outer))
        )
        self.of_lira = [Gaussian(side[0], np.full(n, pooled_variance(*side))) for side in (inner, outer)]
        self.of_bavaria = [posterior(mean, square, count, "t") for mean, square, count in (inner, outer)]

    def features(self, phi: np.ndarray, rows: Any) -> np.ndarray:
        """(r, 10) float64: `FEATURES` of one model's signals (r,) on some records."""
        out, inner = self.mean_out[rows], self.mean_in[rows]
        log_p = log_sigmoid(phi) if self.link == "logit" else phi
        in_lira, out_lira = (log_normal(phi, side.take(rows)) for side in self.of_lira)
        in_bavaria, out_bavaria = (log_density(phi, side.take(rows)) for side in self.of_bavaria)
        columns = (phi, out, inner, phi - out, phi - inner, self.spread_out[rows], self.spread_in[rows])
        ratios = (log_p - self.average[rows], in_lira - out_lira, in_bavaria - out_bavaria)
        return np.stack([*columns, *ratios], axis=1)

    def stand_ins(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(r · g, 10) features of each reference of the group in the target's place, and (r · g,) its memberships."""
        x = [self.features(self.signals[rows, j].astype(np.float64), rows) for j in self.group]
        return np.concatenate(x), np.concatenate([self.inside[rows, j] for j in self.group])


def _held_out(stand_ins: _Parts) -> list[dict[str, np.ndarray]]:
    """`_compared`, which takes most of the attack's time, once for the same stand-ins that were asked last."""
    digest = hashlib.blake2b()
    for part in stand_ins:
        for array in part:
            digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    key = digest.digest()
    found = _last.get(key)
    if found is None:
        found = _compared(stand_ins)
        _last.clear()
        _last[key] = found
    return found


def _compared(stand_ins: _Parts) -> list[dict[str, np.ndarray]]:
    """The log-odds by each learner of the first few groups, each held out in turn; none of a single group."""
    found = []
    learners = ["logistic", "boosting"][: 1 + (sum(len(y) for _, y in stand_ins) >= _ENOUGH)]
    for i in range(min(len(stand_ins), _FOLDS) if len(stand_ins) > 1 else 0):
        training = [part for j, part in enumerate(stand_ins) if j != i]
        step = -(-sum(len(y) for _, y in training) // _ROWS_TO_CHOOSE)
        training = [(x[::step], y[::step]) for x, y in training]
        models = {name: _fit(name, training) for name in learners}
        found.append({name: model.decision_function(stand_ins[i][0]) for name, model in models.items()})
    return found


def _better(held_out: Sequence[dict[str, np.ndarray]], stand_ins: _Parts) -> Literal["boosting", "logistic"]:
    """The learner with the larger mean AUC on held-out groups; the simpler one unless the other is surely better."""
    gained = []
    for fold, (_, y) in zip(held_out, stand_ins):
        auc = {name: mann_whitney(odds[y], odds[~y]) for name, odds in fold.items()}
        gained.append(auc.get("boosting", -1.0) - auc["logistic"])
    if not gained:
        return "logistic"
    error = np.std(gained, ddof=1) / np.sqrt(len(gained))
    return "boosting" if np.mean(gained) > error else "logistic"


def _fit(learner: str, parts: _Parts) -> Any:
    """A scikit-learn classifier with `decision_function`."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, RobustScaler, StandardScaler

    x, y = (np.concatenate(column) for column in zip(*parts))
    if learner == "logistic":
        # arcsinh: log-likelihood ratios have tails that would decide everything.
        scaled = make_pipeline(RobustScaler(), FunctionTransformer(np.arcsinh), StandardScaler())
        return make_pipeline(scaled, LogisticRegression(C=1.0, max_iter=100)).fit(x, y)
    model = HistGradientBoostingClassifier(
        max_iter=150,
        learning_rate=0.06,
        max_leaf_nodes=15,
        min_samples_leaf=max(50, len(x) // 500),
        l2_regularization=1.0,
        early_stopping=False,
        random_state=0,
    )
    return model.fit(x, y)
