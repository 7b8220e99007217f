"""A synthetic audit, for doctests, tests and the documentation: Gaussian scores of known separation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mlflow_privacy.metrics import DEFAULT_FPRS, evaluate_scores
from mlflow_privacy.metrics.groups import by_group, slicings_of
from mlflow_privacy.types import AttackResult, AuditedModel, AuditResult, DataSource, Estimate, Fidelity, Scores

_EXAMPLES = (
    ("rmia", "RMIA", "black box, reference models with and without each record"),
    ("rmia_offline", "RMIA (offline)", "black box, reference models without each record"),
    ("lira", "LiRA", "black box, reference models with and without each record"),
    ("population", "Population", "black box, records of the same distribution"),
)


def example_result(
    n: int = 4000,
    *,
    separations: Sequence[float] = (0.9, 0.6, 0.75, 0.25),
    blind: Estimate | None = None,
    model: AuditedModel | None = None,
    warnings: Sequence[str] = (),
    confidence: float = 0.95,
    seed: int = 0,
) -> AuditResult:
    """An audit of n members and n non-members whose scores are Gaussians some standard deviations apart.

    Args:
      separations: of RMIA, RMIA offline, LiRA and population, in standard deviations.
      blind: baseline of the records alone; at chance if None.

    Example:
      >>> result = example_result(n=200)
      >>> [attack.name for attack in result.attacks], len(result.row_ids)
      (['rmia', 'rmia_offline', 'lira', 'population'], 400)
    """
    rng = np.random.default_rng(seed)
    membership = np.repeat([True, False], n)
    hardness = rng.normal(size=2 * n)  # what the attacks agree on
    attacks = []
    for (name, title, threat), separation in zip(_EXAMPLES, separations):
        own = rng.normal(size=2 * n)
        value = separation * membership + math.sqrt(0.7) * hardness + math.sqrt(0.3) * own
        scores = Scores(1 / (1 + np.exp(-value)) if name.startswith("rmia") else value)
        roc, metrics = evaluate_scores(scores, membership, fprs=DEFAULT_FPRS, confidence=confidence)
        attacks.append(AttackResult(name, title, threat, "https://arxiv.org/abs/2312.03262", scores, roc, metrics))
    y = rng.integers(0, 3, size=2 * n)
    slicings = slicings_of("classification", y, {})
    half = 0.5 / math.sqrt(n)
    return AuditResult(
        model=model or AuditedModel("models:/example/1", "example", "1", None, None, "sklearn"),
        task="classification",
        membership=membership,
        row_ids=np.array([f"train:{i}" for i in range(n)] + [f"holdout:{i}" for i in range(n)]),
        y=y,
        attacks=tuple(
            by_group(
                attack,
                membership,
                slicings,
                fprs=DEFAULT_FPRS,
                confidence=confidence,
                compare=attack.name == _EXAMPLES[0][0],
            )
            for attack in attacks
        ),
        headline="rmia",
        blind=blind or Estimate(0.501, 0.501 - half, 0.501 + half, 2 * n, confidence),
        fidelity=Fidelity(
            target={"member_loss": 0.02, "nonmember_loss": 0.61, "member_accuracy": 0.99, "nonmember_accuracy": 0.84},
            reference={"member_loss": 0.03, "nonmember_loss": 0.6, "member_accuracy": 0.99, "nonmember_accuracy": 0.83},
            reference_std={
                "member_loss": 0.01,
                "nonmember_loss": 0.02,
                "member_accuracy": 0.002,
                "nonmember_accuracy": 0.006,
            },
        ),
        references={
            "n": 8,
            "n_loaded": 0,
            "n_trained": 8,
            "fraction": 0.5,
            "target_fraction": 0.5,
            "run_ids": [],
            "fingerprint": "0" * 64,
        },
        sources=(
            DataSource("members", "train", "mlflow-artifacts:/1/train.parquet", n, "0a1b2c3d", "verified"),
            DataSource("non_members", "holdout", "mlflow-artifacts:/1/holdout.parquet", n, "4e5f6a7b", "verified"),
        ),
        n_population=n,
        population_is_nonmembers=True,
        n_duplicates=0,
        options={"num_ref_models": 8, "random_seed": seed, "fprs": list(DEFAULT_FPRS), "confidence": confidence},
        pool_digest="0" * 64,
        warnings=tuple(warnings),
        timings={"lineage": 0.2, "references": 41.0, "attacks": 0.3},
        environment={"python": "3.11", "mlflow_privacy": "0.1.0", "device": "cpu"},
    )
