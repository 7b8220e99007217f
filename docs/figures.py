"""Draws the pictures of docs/attack_pictures.md: how each attack's scores lie, and its ROC, on one small example.

    python docs/figures.py

The example: 600 records, 300 of them in the training set of a random forest, a fifth of all labels wrong, so that
there is something to memorise; 16 reference forests, each on a random half. A few seconds on one core.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mlflow_privacy.attacks import available, run_attack
from mlflow_privacy.attacks.own import OWN
from mlflow_privacy.metrics import evaluate_scores
from mlflow_privacy.report import svg
from mlflow_privacy.report.sections.attacks import histogram, thin_roc
from mlflow_privacy.types import AttackResult, Signals, to_json

FOLDER = Path(__file__).parent / "images" / "attacks"
N, REFERENCES = 600, 16
# What the report's page says for a figure inside it.
_ALONE = 'xmlns="http://www.w3.org/2000/svg" font-family="system-ui, Helvetica, Arial, sans-serif"'


def example_signals(seed: int = 0) -> tuple[Signals, np.ndarray]:
    """Signals of a target and its references on the pool, and the target's membership."""
    from sklearn.ensemble import RandomForestClassifier

    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N + N, 10))
    y = (x[:, :3].sum(1) > 0) ^ (rng.random(2 * N) < 0.2)
    member = rng.permutation(np.arange(N) < N // 2)
    # Each record is in half of the references.
    trained_on = np.stack([rng.permutation(REFERENCES) < REFERENCES // 2 for _ in range(N)])

    def phi(rows: np.ndarray, forest_seed: int) -> np.ndarray:
        forest = RandomForestClassifier(60, min_samples_leaf=6, random_state=forest_seed, n_jobs=1)
        p = forest.fit(x[:N][rows], y[:N][rows]).predict_proba(x)[np.arange(2 * N), y.astype(int)]
        p = np.clip(p, 0.005, 0.995)
        return np.log(p) - np.log1p(-p)

    target = phi(member, 0)
    references = np.stack([phi(trained_on[:, j], 1 + j) for j in range(REFERENCES)], axis=1)
    signals = Signals(
        target=target[:N],
        reference=references[:N],
        member=trained_on,
        population=target[N:],
        population_reference=references[N:],
        population_member=np.zeros((N, REFERENCES), bool),
    )
    return signals, member


def attacks_of(signals: Signals, member: np.ndarray) -> dict[str, AttackResult]:
    """Every attack that these signals allow; `gap` sees labels only."""
    labels = Signals(**{**vars(signals), "target": (signals.target > 0).astype(float), "link": "label", "extra": {}})
    found = {}
    for name, attack in OWN.items():
        seen = signals if not available(name, signals) else labels if not available(name, labels) else None
        if seen is None:
            continue  # asks for what only a language model has
        scores, _ = run_attack(name, seen)
        roc, metrics = evaluate_scores(scores, member)
        found[name] = AttackResult(name, attack.title, attack.threat_model, attack.paper, scores, roc, metrics)
    return found


def draw(folder: Path = FOLDER) -> list[str]:
    """Writes two pictures per attack; returns the attacks' names."""
    folder.mkdir(parents=True, exist_ok=True)
    signals, member = example_signals()
    attacks = attacks_of(signals, member)
    n_out = int((~member).sum())
    for name, attack in attacks.items():
        view = to_json(histogram(attack, member))
        curve = {"title": attack.title, "roc": to_json(thin_roc(attack.roc, n_out))}
        pictures = {
            "scores": svg.histogram(view, attack.title, f"{name}-s"),
            "roc": svg.roc([curve], int(member.sum()), n_out, log=True, name=f"{name}-r"),
        }
        for kind, drawn in pictures.items():
            alone = drawn.replace("<svg ", f"<svg {_ALONE} ", 1)
            (folder / f"{name}_{kind}.svg").write_text(alone + "\n", encoding="utf-8")
    page = Path(__file__).parent / "attack_pictures.md"
    page.write_text(page_text(attacks), encoding="utf-8")
    return list(attacks)


def page_text(attacks: dict[str, AttackResult]) -> str:
    """The page that shows the pictures."""
    lines = [
        "# The attacks in pictures",
        "",
        "One small example, drawn by `python docs/figures.py`: a random forest trained on 300 of 600 records, a fifth",
        "of all labels wrong, and 16 reference forests. Left: scores of members (filled) and of non-members (outline);",
        "the further apart, the stronger the attack. Right: the ROC on logarithmic axes with its band; above the",
        "dotted line the attack beats guessing. A false-positive rate below 1/300 is beyond 300 non-members:",
        "the shaded strip. AUCs with their 95 % intervals.",
        "What each attack computes is in [The attacks](attacks.md).",
    ]
    for name, attack in attacks.items():
        auc = attack.metrics["auc"]
        lines += [
            "",
            f"## {attack.title}",
            "",
            f"`{name}`: {attack.threat_model.rstrip('.')}. AUC {auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}].",
            "",
            '<div class="pictures" markdown>',
            "",
            f"![Scores of members and non-members under {attack.title}](images/attacks/{name}_scores.svg)",
            "",
            f"![ROC of {attack.title} on logarithmic axes](images/attacks/{name}_roc.svg)",
            "",
            "</div>",
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print("drawn:", ", ".join(draw()))
