import numpy as np
import pytest

from mlflow_privacy.design import Design
from mlflow_privacy.errors import DesignError

DIGEST, OTHER = "ab" * 32, "cd" * 32


@pytest.mark.parametrize("n", [10, 11, 1001])
def test_pairs_are_complementary_so_each_record_is_in_for_half_of_the_references(n):
    rows = Design(DIGEST, n, seed=3).rows(range(8))
    assert (rows[0::2] ^ rows[1::2]).all()
    assert (rows.sum(axis=0) == 4).all()


def test_split_depends_on_pool_seed_and_index_only():
    design = Design(DIGEST, 500, seed=3)
    np.testing.assert_array_equal(design.rows([5])[0], design.rows(range(16))[5])
    assert (design.members(0) != Design(OTHER, 500, seed=3).members(0)).any()
    assert (design.members(0) != Design(DIGEST, 500, seed=4).members(0)).any()
    assert (design.members(0) != design.members(2)).any()


def test_known_split_never_changes():
    # Stored references are found again by their membership rows: another split would orphan them all.
    assert np.flatnonzero(Design(DIGEST, 12, seed=0).members(0)).tolist() == [1, 3, 4, 5, 9, 10]
    assert [Design(DIGEST, 12, seed=0).train_seed(i) for i in range(2)] == [1643217991, 1925217434]


COPIES = np.array([0, 1, 1, 2, 3, 3, 3, 4, 5, 6, 7, 7])  # of 12 records, 8 of which are different


@pytest.mark.parametrize("fraction", [0.5, 0.75, 0.2])
def test_copies_of_a_record_go_in_or_out_together_and_count_as_one(fraction):
    design = Design(DIGEST, 12, seed=0, fraction=fraction, copies=COPIES)
    plain = Design(DIGEST, 8, seed=0, fraction=fraction)
    assert design.n_split == 8
    for i in range(2 * design.group):
        np.testing.assert_array_equal(design.members(i), plain.members(i)[COPIES])
    np.testing.assert_array_equal(design.together(design.rows(range(4))), design.rows(range(4)))


def test_copies_of_records_that_always_train_do_so_too():
    always = np.isin(COPIES, [1, 5])
    design = Design(DIGEST, 12, seed=0, always=always, copies=COPIES)
    rows = design.rows(range(4))
    assert rows[:, always].all()
    assert design.n_split == 6
    assert (rows[0::2][:, ~always] ^ rows[1::2][:, ~always]).all()


def test_a_model_that_trained_on_one_copy_knows_the_others():
    row = np.zeros(12, bool)
    row[5] = True
    known = Design(DIGEST, 12, seed=0, copies=COPIES).together(row[None])[0]
    assert np.flatnonzero(known).tolist() == [4, 5, 6]


def test_audited_records_are_drawn_among_those_that_may_be():
    among = np.arange(100) % 3 > 0
    design = Design(DIGEST, 100, seed=0)
    assert among[design.audited(30, among)].all()
    assert design.audited(None, among).tolist() == np.flatnonzero(among).tolist()
    assert design.audited(None) is None
    with pytest.raises(DesignError, match="data_size=80 records are to be audited, but the pool has 66"):
        design.audited(80, among)


@pytest.mark.parametrize(("fraction", "group"), [(0.8, 5), (0.2, 5), (0.75, 4), (0.5, 2), (0.9, 10)])
def test_within_a_group_every_record_is_in_and_out(fraction, group):
    design = Design(DIGEST, 1000, seed=1, fraction=fraction)
    assert design.group == group
    rows = design.rows(range(group))
    assert (rows.sum(axis=1) == round(fraction * 1000)).all()
    assert rows.any(axis=0).all()
    assert (~rows).any(axis=0).all()


def test_splits_are_uniform_over_records():
    # 400 pairs: the number of times a record is IN with its neighbour is binomial(400, 1/2): 6 s.d. = 60.
    rows = Design(DIGEST, 50, seed=9).rows(range(0, 800, 2))
    together = (rows[:, :-1] == rows[:, 1:]).sum(axis=0)
    assert np.abs(together - 400 * 24 / 49).max() < 60


def test_large_and_negative_looking_seeds_are_distinct():
    seeds = {Design(DIGEST, 50, seed=s).train_seed(0) for s in (0, 1, 2**32, 2**32 + 1, 2**40)}
    assert len(seeds) == 5


@pytest.mark.parametrize(("n", "fraction"), [(1, 0.5), (10, 0.0), (10, 1.0), (3, 0.01), (10, 0.99)])
def test_impossible_fractions_are_errors_that_name_the_value(n, fraction):
    with pytest.raises(DesignError, match=f"reference_fraction.*{fraction}"):
        Design(DIGEST, n, seed=0, fraction=fraction)


def test_too_few_references_for_the_fraction_is_an_error_with_the_remedy():
    with pytest.raises(DesignError, match=r"num_ref_models=4.*use 5 or more"):
        Design(DIGEST, 100, seed=0, fraction=0.8).check_count(4)
    for count in (0, 2, 7):
        Design(DIGEST, 100, seed=0).check_count(count)
