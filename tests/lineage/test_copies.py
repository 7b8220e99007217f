"""Records that occur more than once: figures are about records that chance alone made members or not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_privacy.errors import LineageError
from mlflow_privacy.fingerprint import record_keys
from mlflow_privacy.lineage.copies import choose_records
from mlflow_privacy.lineage.pool import build_pool
from mlflow_privacy.metrics import evaluate_scores
from mlflow_privacy.types import Records, Scores

LEVELS = (10, 9, 7, 5, 2, 2)


def table(rng, n, levels=LEVELS):
    """Discrete records with a label that hangs on them, as a form with six questions gives."""
    columns = [rng.choice(k, n, p=(1 / np.arange(1, k + 1)) / (1 / np.arange(1, k + 1)).sum()) for k in levels]
    x = np.stack(columns, 1).astype(float)
    return x, (x @ np.linspace(1, -1, len(levels)) / 2 + rng.logistic(size=n) > 0).astype(int)


def choose(keys, member, **changes):
    return choose_records(np.asarray(keys), np.asarray(member, bool), np.zeros(len(keys)), **changes)


def test_records_that_are_all_different_are_all_scored_in_their_order():
    choice = choose([5, 3, 9, 1], [1, 1, 0, 0])
    assert choice.copies is None
    assert choice.rows.tolist() == [0, 1, 2, 3]
    assert choice.scored.all()
    assert not choice.repeated.any()


@given(st.lists(st.integers(0, 30), min_size=60, max_size=90), st.integers(0, 2**32 - 1))
def test_which_records_are_scored_does_not_hang_on_who_is_a_member(keys, seed):
    """The records that occur once are the same at any split: what makes members and non-members exchangeable."""
    keys = np.r_[keys, 100 + np.arange(80)]  # so many of both sides occur once that no other set is looked for
    rng = np.random.default_rng(seed)
    seen = set()
    for _ in range(4):
        choice = choose(keys, rng.random(len(keys)) < 0.5)
        seen.add(tuple(np.unique(keys[choice.rows[choice.scored]])))
        assert choice.copies.basis == "unique"
    assert len(seen) == 1


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_an_attack_on_a_model_that_saw_neither_side_has_an_auc_of_one_half(share):
    """A quarter of the records are copies. 200 trials: the mean's standard error is 0.0012, and the interval of 95 %
    misses one half in 4 to 19 of them with probability 99 %."""
    values, missed = [], 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        n_in = int(2000 * share)
        train, holdout = table(rng, n_in), table(rng, 2000 - n_in)
        pool = build_pool(
            Records(*train, np.arange(n_in).astype(str)), Records(*holdout, np.arange(2000 - n_in).astype(str))
        )
        assert pool.copies.basis == "unique"
        # The score of any model that saw neither, such as the exact log-odds, which know what is frequent.
        x, y = pool.records.x[pool.scored], pool.records.y[pool.scored]
        margin = x @ np.linspace(1, -1, len(LEVELS)) / 2
        scores = np.where(y == 1, margin, -margin) - np.log1p(x).sum(1)
        auc = evaluate_scores(Scores(scores), pool.membership[pool.scored], fprs=())[1]["auc"]
        values.append(auc.value)
        missed += not auc.low <= 0.5 <= auc.high
    assert abs(np.mean(values) - 0.5) < 0.004
    assert missed <= 19


def test_records_left_out_of_one_side_alone_would_bias_every_attack():
    """What was done before: copies of members were taken out of the non-members, so that these are rarer records."""
    values = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x, y = table(rng, 2000)
        member, keys = np.arange(2000) < 1000, record_keys(Records(x, y, np.arange(2000)))
        kept = member | ~np.isin(keys, keys[member])
        scores = Scores(-np.log1p(x[kept]).sum(1))
        values.append(evaluate_scores(scores, member[kept], fprs=())[1]["auc"].value)
    assert np.mean(values) > 0.53


def test_copies_that_were_made_after_the_split_leave_each_record_once():
    """Members oversampled: no record is on both sides, where a random split would leave nearly all there."""
    keys = np.r_[np.repeat(np.arange(50), 4), 50 + np.arange(10), 100 + np.arange(40)]
    member = np.arange(len(keys)) < 210
    y = np.where(keys % 2, 1, 0)
    y[(keys >= 50) & member] = 1  # the members that occur once are all of one class
    choice = choose_records(keys, member, y)
    rows, scored = choice.rows, choice.scored
    assert choice.copies.basis == "distinct"
    assert sorted(keys[rows[scored]]) == [*range(60), *range(100, 140)]
    assert (np.sort(rows[member[rows]]) == np.arange(210)).all()  # members are trained on as they are
    # Held-out records are repeated like members of their class: all of class 0 four times, of class 1 some of them.
    times = {key: int((keys[rows] == key).sum()) for key in range(100, 140)}
    assert {times[key] for key in range(100, 140, 2)} == {4}
    assert {times[key] for key in range(101, 140, 2)} == {1, 4}
    assert 0.2 < np.mean([times[key] == 1 for key in range(101, 140, 2)]) < 0.4  # 10 of 35 members of class 1
    assert set(keys[rows[choice.repeated]]) <= {*range(50), *(key for key, n in times.items() if n > 1)}


def test_nearly_all_repeated_leaves_one_ratio_at_each_number_of_copies():
    rng = np.random.default_rng(0)
    keys = np.repeat(np.arange(6000), np.r_[np.full(3000, 2), np.full(3000, 3)])
    member = rng.random(len(keys)) < 0.7
    choice = choose(keys, member)
    assert choice.copies.basis == "balanced"
    inside = member[choice.rows]
    count = np.bincount(keys)[keys[choice.rows]]
    of = {(c, side): int((choice.scored & (count == c) & (inside == side)).sum()) for c in (2, 3) for side in (0, 1)}
    assert of[2, 1] / of[2, 0] == pytest.approx(of[3, 1] / of[3, 0], rel=0.2)
    assert of[2, 0] + of[3, 0] > 200
    inside = np.bincount(keys, member)[keys[choice.rows[choice.scored]]]
    assert (np.isin(inside, [0]) | (inside == np.bincount(keys)[keys[choice.rows[choice.scored]]])).all()  # on one side


def test_repeated_records_are_compared_with_each_other():
    rng = np.random.default_rng(0)
    keys = np.r_[np.arange(200), 200 + np.repeat(np.arange(100), 2)]
    member = rng.random(400) < 0.5
    choice = choose(keys, member)
    chosen = keys[choice.rows[choice.repeated]]
    assert choice.copies.basis == "unique"
    assert (chosen >= 200).all()
    assert len(set(chosen)) == len(chosen)
    on_both = [key for key in range(200, 300) if len(set(member[keys == key])) == 2]
    assert not set(on_both) & set(chosen)
    assert choice.copies.on_both == len(on_both)
    assert (choice.copies.members, choice.copies.nonmembers) == (member[200:].sum(), (~member[200:]).sum())


def test_canaries_are_scored_only_where_they_equal_no_other_record():
    """Otherwise the coins of their twins would have a say in who is scored, and a bound on ε would not hold."""
    keys = [1, 2, 3, 4, 5, 5, 6, 1, 7]
    member = [1, 1, 1, 1, 1, 1, 0, 0, 0]
    fixed = [1, 1, 0, 0, 0, 0, 0, 0, 0]  # 3 to 7 are canaries; 5 is in twice, one copy of 1 is left out
    choice = choose(keys, member, fixed=np.array(fixed, bool))
    assert np.array(keys)[choice.rows[choice.scored]].tolist() == [3, 4, 6, 7]
    assert len(choice.rows) == 9


def test_nothing_to_compare_is_an_error_that_says_how_many_occur_more_than_once():
    with pytest.raises(
        LineageError, match=r"no held-out record can be compared.*4 of 5 training records and 2 of 2 held"
    ):
        choose([1, 2, 3, 3, 4, 1, 2, 4][:7], [1, 1, 1, 1, 1, 0, 0])
