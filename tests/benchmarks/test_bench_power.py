"""The proof of strength: whole groups beside a target, figures that are kept, a null that finds nothing."""

import doctest
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from mlflow_privacy.design import Design
from mlflow_privacy.types import AttackStrength, HeadlineChoice


@pytest.fixture(scope="module")
def bench():
    folder = str(Path(__file__).parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(folder)


def kept(bench, *, models=8, share=0.5, n=600):
    rng = np.random.default_rng(0)
    member = Design("11" * 32, n, seed=0, fraction=share).rows(range(models)).T
    phi, z = rng.normal(0, 2, (n, 1)) + 1.5 * member + rng.normal(size=member.shape), rng.normal(size=(50, models))
    group = Design("11" * 32, n, seed=0, fraction=share).group
    return bench("power_models").Kept(phi, member, z, np.ones(models), group, "logit")


def test_examples_in_the_docstrings_hold(bench):
    for name in ("bench_power", "bench_null"):
        result = doctest.testmod(bench(name))
        assert result.attempted
        assert not result.failed


@pytest.mark.parametrize(("share", "models", "count"), [(0.5, 8, 4), (0.8, 20, 10)])
def test_references_are_whole_groups_and_never_the_targets_own(bench, share, models, count):
    one = kept(bench, models=models, share=share)
    for j in range(models):
        others = one.others(j, count)
        assert len(set(others.tolist())) == count
        assert j // one.group not in others // one.group
        assert set(np.bincount(others // one.group)) <= {0, one.group}
        seen = one.one(j, others)
        np.testing.assert_array_equal(seen.reference, one.phi[:, others])
        assert not seen.population_member.any()


def test_a_run_goes_on_where_it_stopped_and_forgets_what_it_is_told_to(bench, tmp_path, monkeypatch):
    power, one, file = bench("bench_power"), kept(bench), tmp_path / "one.json"
    first = power.measure("one", one, 3, file, None)
    assert set(first) == {"2", "4"}  # eight would need the target's own group
    assert {len(rows) for cell in first.values() for rows in cell.values()} == {3}
    assert "learned" not in first["2"]
    assert {row["chosen"] for row in first["2"]["auto"]} <= {"rmia", "lira"}
    assert power.mean(first["4"]["lira"])[0] > 0.7
    asked = []
    ran = power.run_attack
    monkeypatch.setattr(power, "run_attack", lambda name, signals: asked.append(name) or ran(name, signals))
    assert json.dumps(power.measure("one", one, 3, file, None)) == json.dumps(first)  # NaN is no NaN
    assert asked == []
    power.forget(file, ["lira"])
    assert "lira" not in json.loads(file.read_text())["2"]
    again = power.measure("one", one, 3, file, None)
    assert asked == ["lira"] * 6
    np.testing.assert_array_equal(power.values(again["4"]["lira"]), power.values(first["4"]["lira"]))
    text = power.table("One", one, first)
    assert "| lira | " in text
    short = power.summary({"one": first}, {"one": "A net"})
    assert [line.split(" | ")[1] for line in short.splitlines()[2:]] == ["**auto**", "best in hindsight"]
    assert " learned |" in short
    assert text.count(" / –") == 2 * (len(first["4"]) + 1) - 1  # 300 non-members do not resolve 0.1 %


def test_auto_is_the_attack_that_the_audit_chooses(bench, monkeypatch):
    power = bench("bench_power")
    rows = {name: {"figures": [0.5, value, 0.0], "s": 1.0} for name, value in (("rmia", 0.1), ("lira", 0.2))}
    table = (AttackStrength("rmia", 0.3, 0.1, 4),)
    monkeypatch.setattr(power, "headline_of", lambda *_: ("rmia", HeadlineChoice("rmia", "auc", table)))
    assert power.auto(None, rows)["chosen"] == "rmia"
    monkeypatch.setattr(power, "headline_of", lambda *_: ("rmia", HeadlineChoice("rmia", "auc", pair=("rmia", "lira"))))
    assert power.auto(None, rows)["chosen"] == "lira"


def test_what_auto_loses_is_told(bench):
    power = bench("bench_power")

    def rows(values):
        return [{"figures": [v, v, v], "s": 0.0, "target": i, "chosen": "lira"} for i, v in enumerate(values)]

    assert power.short_of({"lira": rows([0.7, 0.72]), "auto": rows([0.7, 0.72])}) == []
    assert len(power.short_of({"lira": rows([0.7, 0.72]), "auto": rows([0.6, 0.62])})) == 2


def test_the_figure_is_small_and_names_its_lines(bench, tmp_path):
    one, power = kept(bench), bench("bench_power")
    found = power.measure("one", one, 3, tmp_path / "one.json", None)
    bench("power_plot").plot({"mlp": found}, {"mlp": "An example"}, tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert len(text) < 100_000
    assert all(word in text for word in ("auto", "LiRA", "An example", "reference models"))


@pytest.mark.slow
@pytest.mark.parametrize("case", [0, 1])
def test_where_nothing_is_the_verdict_finds_nothing(bench, case):
    """120 audits by defaults: 5 % and three standard errors of it; of the TPR 2.5 %."""
    null = bench("bench_null")
    found = null.rates([null.trial(1000 + seed, *null.CASES[case]) for seed in range(120)])
    assert found["auc above"] + found["auc below"] <= 0.05 + 3 * (0.05 * 0.95 / 120) ** 0.5
    assert found["tpr above"] <= 0.025 + 3 * (0.025 * 0.975 / 120) ** 0.5
