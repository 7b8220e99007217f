"""Many references of a large pool: the audit holds their signals once, and nothing wider than float32."""

import dataclasses
import sys
import tracemalloc
from pathlib import Path

import numpy as np

from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.auditing.pipeline import audit, stack_signals

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
try:
    from bench_large import drawn_references, make_target
finally:
    sys.path.pop(0)


def test_memory_of_an_audit_grows_by_its_signals_alone(monkeypatch):
    """Bytes a signal: 4 side by side and 1 of membership, half of both for the non-members, 1 of evidence: 8.5.

    Attacks are compared, and one is learned, on 20,000 records: that does not grow.
    """
    peaks, m, sizes = [], 64, (25_000, 50_000)
    options = AuditOptions(num_ref_models=m, blind_baseline=False, progress=False)
    for n in (1_000, *sizes):  # the first imports all that an audit needs
        target, made = make_target(n), []

        def ensure(pool, recipe, design, count, made=made, **_):
            made.append(drawn_references(len(pool), count, design))
            tracemalloc.start()
            return made[0]

        monkeypatch.setattr("mlflow_privacy.auditing.references.ensure", ensure)
        result = audit(target, options)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert [attack.name for attack in result.attacks] == ["rmia", "lira", "bavaria", "learned", "rmia_offline"]
    growth = (peaks[2] - peaks[1]) / ((sizes[1] - sizes[0]) * m)
    assert 8 < growth < 14, growth


def test_signals_side_by_side_are_float32_rows_of_one_record(monkeypatch):
    target = make_target(300)
    seen = {}

    def ensure(pool, recipe, design, count, **_):
        seen["references"] = drawn_references(len(pool), count, design)
        return seen["references"]

    monkeypatch.setattr("mlflow_privacy.auditing.references.ensure", ensure)
    result = audit(target, AuditOptions(num_ref_models=6, blind_baseline=False, progress=False))
    signals, references = result.evidence.signals, seen["references"]
    assert (signals.reference.dtype, signals.reference.flags.c_contiguous) == (np.float32, True)
    assert (signals.member.dtype, signals.member.flags.c_contiguous) == (np.bool_, True)
    np.testing.assert_array_equal(signals.reference, np.stack([one.signal for one in references.pool], axis=1))
    np.testing.assert_array_equal(signals.member, references.rows.T)
    outside = ~result.membership
    np.testing.assert_array_equal(signals.population_reference, signals.reference[outside])


def test_a_population_of_its_own_is_laid_out_like_the_pool():
    target = make_target(50)
    design_rows = np.random.default_rng(0).random((3, 50)) < 0.5

    class Rows:
        def rows(self, indices):
            return design_rows[list(indices)]

    references = drawn_references(50, 3, Rows())
    of_population = drawn_references(20, 3, type("Z", (), {"rows": lambda self, i: np.zeros((3, 20), bool)})())
    references = dataclasses.replace(references, population=of_population.pool)
    own = (references.pool[0], of_population.pool[0])
    signals = stack_signals(own, references, target.membership)
    np.testing.assert_array_equal(
        signals.population_reference, np.stack([one.signal for one in of_population.pool], axis=1)
    )
    assert not signals.population_member.any()
