"""Games over arrays: planted leaks are found, nothing is found where nothing is, and options are checked."""

import dataclasses
import math

import numpy as np
import pytest

from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.auditing.pipeline import audit
from mlflow_privacy.errors import ConfigError, DesignError
from mlflow_privacy.games.dp.game import play_dp
from mlflow_privacy.games.dp.options import DpOptions
from mlflow_privacy.games.game import Setting, game_faults, make_game
from mlflow_privacy.games.range.game import RangePart, play_range
from mlflow_privacy.games.range.options import RangeOptions
from mlflow_privacy.games.range.points import hits_of
from mlflow_privacy.games.usage.game import play_usage
from mlflow_privacy.games.usage.options import UsageOptions
from mlflow_privacy.report.example import example_result
from mlflow_privacy.report.game_figures import game_figure
from mlflow_privacy.trainers import make_recipe
from mlflow_privacy.types import AuditedModel, AuditTarget, Records, Scores, Signals, to_json

LIGHT = AuditOptions(num_ref_models=4, blind_baseline=False, progress=False)


def with_game(name, **options):
    return LIGHT.model_copy(update={"game": name, "game_options": options})


def make_target(n=240, features=80, seed=0, share=0.5, coins=False):
    """A logistic regression with nearly as many weights as records: it leaks."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, features)), rng.integers(2, size=n)
    member = rng.random(n) < 0.5 if coins else rng.permutation(n) < share * n
    model = LogisticRegression(C=1e3, max_iter=300).fit(x[member], y[member])
    pool = Records(x, y, np.array([f"row:{i}" for i in range(n)]))
    recipe = make_recipe(model, task="classification")
    audited = AuditedModel("memory", None, None, None, None, "sklearn", model)
    return AuditTarget(audited, pool, member, "classification", recipe=recipe)


# --- dp ----------------------------------------------------------------------------------------------------------


def test_a_memorised_canary_set_gives_a_bound_and_contradicts_a_small_claim():
    rng = np.random.default_rng(0)
    member = rng.random(600) < 0.5
    result = play_dp(Scores(3 * member + rng.normal(size=600)), member, claims={"epsilon": 1.0, "source": "the run"})
    assert result.metrics["epsilon"].value > 2
    assert result.metrics["epsilon_gaussian"].value > result.metrics["epsilon"].value
    assert result.metrics["contradicted"].value == 1
    assert "The claim ε = 1 at δ = 1e-05 is contradicted" in result.sentence
    assert "Gaussian" in result.assumption


def test_no_leak_gives_no_bound_in_95_of_100_audits():
    found = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        member = rng.random(200) < 0.5
        result = play_dp(Scores(rng.normal(size=200)), member, DpOptions(delta=1e-5), seed=seed)
        found += result.metrics["epsilon"].value > 0
    assert found <= 18  # Binomial(200, 0.05) exceeds it with probability 0.7 %


def test_only_the_order_of_the_scores_counts_and_ties_go_by_the_ratio():
    rng = np.random.default_rng(1)
    member = rng.random(400) < 0.5
    raw = 2 * member + rng.normal(size=400)
    plateau = Scores(np.minimum(raw, 0.5), raw)  # as RMIA's: many equal to 1, told apart by the likelihood ratio
    assert play_dp(plateau, member).metrics == pytest.approx(play_dp(Scores(raw**3), member).metrics, nan_ok=True)


def test_left_out_twins_of_trained_canaries_do_not_make_a_bound():
    """Nothing leaks, but half of the canaries have a twin; those that are out while the twin is in have no score."""
    dropped = kept = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        coins = rng.random(400) < 0.5
        twin = np.r_[np.arange(100, 200), np.arange(100), np.full(200, -1)]
        lost = ~coins & (twin >= 0) & coins[twin]
        shown = Scores(np.where(twin >= 0, 5.0, 0.0)[~lost] + rng.normal(size=int((~lost).sum())))
        options = DpOptions(delta=1e-5, methods=("one_run",))
        kept += play_dp(shown, coins[~lost], options, unscored=int(lost.sum())).metrics["epsilon"].value > 0
        try:
            dropped += play_dp(shown, coins[~lost], options).metrics["epsilon"].value > 0
        except DesignError:  # so many in that no fair coin could have decided
            dropped += 1
    assert dropped > 50
    assert kept <= 3


def twins(seed=0, n=240):
    """Half of the canaries equal another one; a coin decided about every row."""
    target = make_target(n=n, coins=True, seed=seed)
    rows = np.r_[np.arange(n), np.arange(n // 4)]
    member = np.r_[target.membership, np.random.default_rng(seed).random(n // 4) < 0.5]
    return dataclasses.replace(target, pool=target.pool.take(rows), membership=member)


def test_canaries_that_equal_another_are_scored_neither_in_nor_out_and_counted():
    target = twins()
    result = audit(target, with_game("dp", canaries="all"))
    game = result.games["dp"]
    assert len(result.membership) == 180
    assert {int(row.split(":")[1]) for row in result.row_ids} == set(range(60, 240))
    assert "120 canaries that equal another record are not scored" in game.assumption
    assert game.metrics["epsilon"].n == 180


def test_coins_are_looked_at_where_they_decided_alone():
    """All rows whose copy is in count as members of their record: with them more than half would be in."""
    from mlflow_privacy.games.dp.game import DpGame

    game = DpGame(DpOptions(canaries="all"))
    scored = np.arange(300) < 200
    member = np.r_[np.arange(200) % 2 == 0, np.ones(100, bool)]
    target = dataclasses.replace(make_target(n=300), membership=member)
    with pytest.raises(DesignError, match="200 of 300 canaries were trained on"):
        game.check(target, 4, None)
    game.check(dataclasses.replace(target, scored=scored), 4, None)


def test_a_choice_of_records_that_hangs_on_the_coins_makes_no_bound():
    target = make_target(n=160)
    rows = np.repeat(np.arange(80), 2)
    rare = dataclasses.replace(
        target, pool=target.pool.take(rows), membership=np.random.default_rng(0).random(160) < 0.5
    )
    with pytest.raises(DesignError, match="Let each canary be another record"):
        audit(rare, with_game("dp", canaries="all"))


def test_a_split_that_no_fair_coin_made_is_refused():
    member = np.arange(300) < 240
    with pytest.raises(DesignError, match="240 of 300 canaries were trained on; a fair coin"):
        play_dp(Scores(np.arange(300.0)), member)


def test_a_claim_at_another_delta_is_not_compared():
    rng = np.random.default_rng(0)
    member = rng.random(300) < 0.5
    claims = {"epsilon": 0.1, "delta": 1e-6}
    result = play_dp(Scores(5.0 * member), member, DpOptions(delta=1e-4), claims=claims)
    assert "cannot be compared" in result.sentence
    assert "contradicted" not in result.metrics
    assert play_dp(Scores(5.0 * member), member, claims=claims).options["delta"] == 1e-6


def canary_scores(dp, seed=0):
    """Log-odds of 300 canaries with random labels under a network that trained on half of them, and who they are."""
    import torch
    from torch import nn

    from mlflow_privacy.signals import model_outputs
    from mlflow_privacy.trainers import trainer_for

    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(300, 30)).astype(np.float32), rng.integers(2, size=300)
    data = Records(x, y, np.arange(300).astype(str))
    coins = rng.random(300) < 0.5
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 2))
    settings = {"optimizer": "sgd", "learning_rate": 0.5, "epochs": 60, "batch_size": 50, **({"dp": dp} if dp else {})}
    recipe = make_recipe(module, settings, task="classification", data=data)
    (model,) = trainer_for(recipe).train(recipe, data, coins[None], [seed], device="cpu")
    return Scores(model_outputs(model, data, task="classification", classes=np.array([0, 1])).signal), coins


def test_a_network_that_memorises_its_canaries_shows_a_large_epsilon():
    scores, coins = canary_scores(None)
    assert play_dp(scores, coins).metrics["epsilon"].value > 1.5


def test_the_bound_of_dp_sgd_stays_below_the_accountants_epsilon():
    pytest.importorskip("opacus")
    for seed in range(3):
        scores, coins = canary_scores({"target_epsilon": 1.0}, seed)
        result = play_dp(scores, coins, claims={"epsilon": 1.0, "delta": 1e-5}, seed=seed)
        assert result.metrics["contradicted"].value == 0
        assert max(result.metrics[k].value for k in ("epsilon", "epsilon_gaussian")) < 1.0


# --- usage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_the_true_share_is_covered(share):
    covered = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        member = rng.random((800, 8)) < 0.5
        used = rng.permutation(800) < share * 800
        shift = rng.normal(scale=0.1, size=9)  # each model fits a little harder or less hard
        result = play_usage(
            2 * used + shift[0] + rng.normal(size=800), 2 * member + shift[1:] + rng.normal(size=(800, 8)), member
        )
        covered += result.metrics["share"].low <= share <= result.metrics["share"].high
    assert covered >= 34  # Binomial(40, 0.95) falls below with probability 1.4 %


def test_several_targets_are_one_row_each():
    rng = np.random.default_rng(0)
    member = rng.random((500, 6)) < 0.5
    targets = np.stack([3.0 * (np.arange(500) < k) + rng.normal(size=500) for k in (100, 400)], axis=1)
    result = play_usage(targets, 3 * member + rng.normal(size=(500, 6)), member, names=["a", "b"])
    assert [label for label, _ in result.rows] == ["a", "b"]
    assert result.metrics["share"].value == pytest.approx(0.2, abs=0.08)
    assert result.metrics["share_2"].value == pytest.approx(0.8, abs=0.08)


def test_references_of_another_size_are_said():
    rng = np.random.default_rng(0)
    member = rng.random((400, 4)) < 0.5
    target = 2.0 * (np.arange(400) < 40)
    result = play_usage(target, 2.0 * member + rng.normal(size=(400, 4)), member, true_share=0.1)
    assert "models of another amount of data" in result.sentence


# --- range -------------------------------------------------------------------------------------------------------


def range_part(seed, leak, n=120, s=10, m=4):
    """Samples near the centre show membership, the others do not."""
    rng = np.random.default_rng(seed)
    half = rng.random((n, m // 2)) < 0.5
    rows = np.concatenate([rng.random((n, 1)) < 0.5, half, ~half], axis=1)
    near = rng.random((n, s)) < 0.3
    phi = leak * rows[:, None] * near[..., None] + rng.normal(size=(n, s, 1 + m))
    flat = phi.reshape(n * s, -1)
    outside = ~rows[:, 0]
    point = leak * rows + rng.normal(size=rows.shape)

    def signals(values, member):
        return Signals(values[:, 0], values[:, 1:], member, point[outside, 0], point[outside, 1:], rows[outside][:, 1:])

    return RangePart(
        "own", signals(flat, np.repeat(rows[:, 1:], s, 0)), signals(point, rows[:, 1:]), rows[:, 0], rows[:, 1:]
    )


def test_ranges_of_members_rank_above_others_and_the_mean_alone_is_weaker():
    gain = []
    for seed in range(4):
        result = play_range([range_part(seed, 3.0)])
        assert result.metrics["auc"].low > 0.5
        assert result.options["used"]["own"]["score"] == "trimmed_mean"
        gain.append(result.metrics["auc"].value - result.metrics["mean_auc"].value)
    assert np.mean(gain) > 0


def test_without_a_leak_ranges_are_at_chance():
    covered = sum(
        e.low <= 0.5 <= e.high for e in (play_range([range_part(seed, 0.0)]).metrics["auc"] for seed in range(20))
    )
    assert covered >= 16  # Binomial(20, 0.95) falls below with probability 0.3 %


def test_the_trim_is_tuned_without_the_target():
    part = range_part(0, 3.0)
    signals = dataclasses.replace(part.signals, target=-part.signals.target)
    flipped = dataclasses.replace(part, signals=signals, member=~part.member)
    first, second = (play_range([p]).options["used"]["own"]["trim"] for p in (part, flipped))
    assert first == second


def test_two_references_are_too_few_to_tune_on():
    result = play_range([range_part(0, 3.0, m=2)])
    assert result.options["used"]["own"] == {"score": "mean"}
    given = play_range([range_part(0, 3.0, m=2)], RangeOptions(trim_ratio=0.5))
    assert given.options["used"]["own"]["trim"]["ratio"] == 0.5


def test_ranges_that_are_all_members_are_refused():
    part = range_part(0, 1.0)
    with pytest.raises(DesignError, match="nothing to tell apart"):
        play_range([dataclasses.replace(part, member=np.ones_like(part.member))])


# --- through the audit -------------------------------------------------------------------------------------------


def test_the_attacks_run_whatever_the_game_and_are_the_same():
    target = make_target(coins=True)
    plain = audit(target, LIGHT)
    for name, options in (("usage", {}), ("range", {"n_samples": 4}), ("dp", {"canaries": "all"})):
        result = audit(target, with_game(name, **options))
        assert set(result.games) == {name}
        own = {key: v for key, v in result.metrics.items() if not key.startswith(f"privacy/{name}/")}
        assert own == plain.metrics
        figure = game_figure(result, result.games[name])
        assert figure is not None
        assert figure.startswith(b"\x89PNG")
    assert plain.games == {}
    assert "range" not in str(to_json(plain))


def test_an_overfitted_model_is_found_by_all_three_games():
    target = make_target(n=400, features=150, coins=True)
    usage = audit(target, with_game("usage")).games["usage"].metrics["share"]
    assert usage.low <= float(target.membership.mean()) <= usage.high
    ranges = audit(target, with_game("range", n_samples=5)).games["range"].metrics
    assert ranges["auc"].low > 0.55
    assert ranges["moved_auc"].value > 0.55
    bound = audit(target, with_game("dp", canaries="all", delta=1e-6)).games["dp"]
    assert bound.metrics["epsilon_gaussian"].value > 0
    assert "every audited record" in bound.assumption


def test_records_that_always_train_are_in_every_reference_and_nobody_asks_about_them():
    target = make_target()
    always = target.membership & (np.arange(240) % 3 == 0)
    result = audit(dataclasses.replace(target, always=always), LIGHT)
    assert len(result.row_ids) == 240 - int(always.sum())
    assert set(result.row_ids) == set(target.pool.row_ids[~always])
    rows = result.evidence.membership
    order = np.argsort(result.evidence.pool_ids)
    fixed = always[np.argsort(target.pool.row_ids)]
    assert rows[:, order][:, fixed].all()
    free = rows[1:, order][:, ~fixed]
    assert (free.sum(0) == 2).all()  # of four references, two pairs
    assert result.references["n_always"] == int(always.sum())


def test_range_points_depend_on_pool_and_seed_and_not_on_members():
    target = make_target()

    def keys(target, seed=0):
        return [question.key for question in make_game("range", {}, Setting(seed)).questions(target, target.pool)]

    one = keys(target)
    assert len(one) == 3
    assert one == keys(dataclasses.replace(target, membership=~target.membership))
    assert one != keys(target, seed=1)


def test_missing_values_are_drawn_for_the_columns_that_are_asked():
    target = make_target()
    options = {"function": "missing_values", "num_missing": 2, "col_ranges": [[0, 1], [5, 6]], "n_samples": 3}
    samples = make_game("range", options).questions(target, target.pool)[0].records
    changed = (samples.x != np.repeat(target.pool.x, 3, 0)).any(0)
    assert changed.sum() == 2
    first, second = samples.x[:, changed].T
    assert 0 <= first.min() <= first.max() <= 1
    assert 5 <= second.min() <= second.max() <= 6


def test_a_ball_that_holds_a_training_record_is_a_member_whatever_its_centre():
    pool = Records(np.array([[0.0], [1.0], [5.0]]), np.zeros(3), np.arange(3).astype(str))
    rows = np.array([[True, False], [False, False], [False, True]])
    assert hits_of(pool, pool, rows, 1.0).tolist() == [[True, False], [True, False], [False, True]]
    asked = pool.take(np.array([1]))  # of the others nobody asked
    assert hits_of(asked, pool, rows, 1.0).tolist() == [[True, False]]


def test_a_ball_may_hold_training_records_that_are_not_audited():
    target = make_target(n=120, features=2)
    options = with_game("range", function="l2", radius=100.0, n_samples=2).model_copy(update={"data_size": 40})
    with pytest.raises(DesignError, match="All|all"):  # a ball that holds the whole pool holds members
        audit(target, options)


# --- faults ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("game", "options", "message"),
    [
        ("dp", {}, "needs canaries"),
        ("dp", {"canary": "all"}, "unknown key 'canary', did you mean 'canaries'"),
        ("dp", {"canaries": "all", "attack": "lirra"}, "not among the attacks"),
        ("usage", {"confidence": 2}, r"confidence must be in \(0.5, 1\), got 2"),
        ("range", {"function": "geometrc"}, "no range function 'geometrc', did you mean 'geometric'"),
        ("range", {"function": "word_replace"}, "for language models"),
        ("range", {"attack": "zlib"}, "cannot score the samples"),
        ("membership", {"delta": 1}, "membership has none"),
    ],
)
def test_what_cannot_be_played_is_said(game, options, message):
    with pytest.raises((ConfigError, DesignError), match=message):
        audit(make_target(), with_game(game, **options))


def test_all_faults_of_the_options_are_told_at_once():
    faults = game_faults("range", {"n_samples": 0, "radus": 1, "score": "median", "flip": "yes"})
    assert len(faults) == 4
    with pytest.raises(ConfigError) as error:
        make_game("range", {"n_samples": 0, "radus": 1})
    assert "n_samples" in str(error.value)
    assert "did you mean 'radius'" in str(error.value)


@pytest.mark.parametrize(("game", "options"), [("dp", {"canaries": "all"}), ("range", {})])
def test_an_attack_that_does_not_run_is_refused_before_anything_is_trained(game, options, monkeypatch):
    from mlflow_privacy.auditing import references

    monkeypatch.setattr(references, "ensure", lambda *_, **__: pytest.fail("references were trained"))
    with pytest.raises(ConfigError, match="zlib"):
        audit(make_target(), with_game(game, attack="zlib", **options))


def test_usage_without_references_is_refused_before_anything_runs():
    with pytest.raises(ConfigError, match="compares the target with reference models"):
        audit(make_target(), with_game("usage").model_copy(update={"num_ref_models": 0}))


def test_exact_numbers_have_no_interval_in_the_metrics():
    rng = np.random.default_rng(0)
    member = rng.random(200) < 0.5
    game = play_dp(Scores(2.0 * member + rng.normal(size=200)), member, DpOptions(claimed_epsilon=1.0))
    flat = dataclasses.replace(example_result(n=50), games={"dp": game}).metrics
    names = {key for key in flat if key.startswith("privacy/dp/")}
    assert "privacy/dp/claimed_epsilon" in names
    assert "privacy/dp/epsilon_low" in names
    assert "privacy/dp/epsilon_high" not in names  # an audit bounds ε from below only
    assert "privacy/dp/claimed_epsilon_low" not in names
    assert all(math.isfinite(v) for v in flat.values())


def test_defaults_are_valid_options():
    for name, record in (("dp", DpOptions), ("range", RangeOptions), ("usage", UsageOptions)):
        assert game_faults(name, record().model_dump()) == []
