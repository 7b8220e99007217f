"""Attacks on language models: values by hand, what they ask for and need, a planted leak, no leak."""

import dataclasses
import math

import numpy as np
import pytest

from mlflow_privacy.attacks import ATTACKS, available, check_options, default_attacks, extra_signals, run_attack
from mlflow_privacy.attacks.extras import EXTRAS, extra_key, parse_extra
from mlflow_privacy.attacks.language import recall, zlib_ratio
from mlflow_privacy.attacks.own import OWN
from mlflow_privacy.errors import ConfigError, DesignError
from mlflow_privacy.metrics import auc
from mlflow_privacy.types import Records, Signals

LANGUAGE = sorted(name for name, attack in OWN.items() if attack.extras)


def signals_of(target, extra=None, m=0, link="log_p"):
    """Signals without references, or with m that say nothing."""
    target = np.asarray(target, np.float32)
    rng = np.random.default_rng(0)
    half = rng.random((len(target), m // 2)) < 0.5
    member = np.stack([half, ~half], axis=2).reshape(len(target), m)
    reference = rng.normal(-3, 0.3, (len(target), m))
    return Signals(target, reference, member, target, reference, member, link, extra or {})


def test_every_attack_by_hand():
    target = [-2.0, -1.0]
    extra = {
        "zlib": [40, 50],
        "lowercase": [-3.0, -1.5],
        "min_k:k=0.2": [-5.0, -2.0],
        "min_k_plus:k=0.1": [-1.0, 0.5],
        "base": [-2.5, -3.0],
        "neighbours:n=25,replaced=1,seed=0": [-2.25, -2.0],
        "recall": [-3.0, -1.0],
    }
    signals = signals_of(target, {key: np.array(values, np.float32) for key, values in extra.items()})
    wanted = {
        "zlib": [-0.05, -0.02],
        "lowercase": [1.0, 0.5],
        "min_k": [-5.0, -2.0],
        "min_k_plus": [-1.0, 0.5],
        "base_ratio": [0.5, 2.0],
        "neighbourhood": [0.25, 1.0],
        "recall": [1.5, 1.0],
        "loss": target,
    }
    assert set(wanted) == {*LANGUAGE, "loss"}
    for name, values in wanted.items():
        options = {"k": 0.1} if name == "min_k_plus" else {}
        scores, used = run_attack(name, signals, **options)
        np.testing.assert_allclose(scores.value, values, rtol=1e-6)
        assert used == {**ATTACKS[name].options, **options}


@pytest.mark.parametrize("name", LANGUAGE)
def test_torch_tensors_give_the_numbers_of_numpy(name):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    (key,) = extra_signals([name])
    values = rng.uniform(20, 60, 30).astype(np.float32) * (1 if name == "zlib" else -1)
    signals = signals_of(-rng.uniform(1, 3, 30), {key: values})
    tensors = dataclasses.replace(
        signals, target=torch.from_numpy(signals.target), extra={key: torch.from_numpy(values)}
    )
    np.testing.assert_array_equal(run_attack(name, tensors)[0].value, run_attack(name, signals)[0].value)


def test_what_is_asked_for_before_inference_is_what_the_attack_takes():
    options = {"min_k": {"k": 0.1}, "neighbourhood": {"n": 3}}
    keys = extra_signals(["rmia", *LANGUAGE, "loss", *LANGUAGE], options)
    assert len(keys) == len(LANGUAGE)
    assert set(keys) >= {"min_k:k=0.1", "min_k_plus:k=0.2", "neighbours:n=3,replaced=1,seed=0", "base"}
    signals = signals_of([-1.0, -2.0], {key: np.array([3.0, 4.0]) for key in keys})
    for name in LANGUAGE:
        assert available(name, signals, options.get(name)) == ""
        assert run_attack(name, signals, **options.get(name, {}))[0].value.shape == (2,)
    assert 'needs the signal "min_k:k=0.2"' in available("min_k", signals)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("base_ratio", "base="), ("neighbourhood", "masked="), ("recall", "prefix="), ("zlib", "causal language model")],
)
def test_a_missing_signal_is_said_with_its_remedy(name, remedy):
    signals = signals_of([-1.0])
    reason = available(name, signals)
    assert f"Attack {name} needs the signal" in reason
    assert remedy in reason
    with pytest.raises(DesignError, match=f"Attack {name} cannot run"):
        run_attack(name, signals)


@pytest.mark.parametrize("link", ["logit", "label"])
@pytest.mark.parametrize("name", LANGUAGE)
def test_classifiers_are_no_language_models(name, link):
    signals = signals_of([1.0], {key: np.ones(1) for key in extra_signals([name])}, link=link)
    assert f'this model gives "{link}": it is for causal language models' in available(name, signals)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("min_k", {"k": 0.0}, r"k must be in \(0, 1\], got 0.0"),
        ("min_k_plus", {"k": float("nan")}, r"k must be in \(0, 1\]"),
        (
            "neighbourhood",
            {"n": 0, "replaced": 1.5},
            r"n must be a whole number of at least 1, got 0; replaced must be",
        ),
        ("zlib", {"k": 0.2}, "Attack zlib has no option 'k'; it has none"),
        ("min_k", {"kk": 0.2}, "did you mean 'k'"),
    ],
)
def test_options_are_checked_before_anything_is_computed(name, options, message):
    with pytest.raises(ConfigError, match=message):
        check_options(name, options)


def test_keys_are_read_back_and_nonsense_is_not():
    for kind, spec in EXTRAS.items():
        options = {name: {"k": 0.05}.get(name, 3) for name in spec.checks}
        assert parse_extra(extra_key(kind, options)) == (kind, options)
    assert parse_extra(extra_key("min_k", {"k": 1e-05})) == ("min_k", {"k": 1e-05})
    for nonsense in ("min_k", "min_k:k=x", "min_k:k=0.2,n=1", "zlib:k=1", "nothing", "min_k:k=2"):
        with pytest.raises(ConfigError):
            parse_extra(nonsense)


def test_faults_of_arrays_are_named():
    with pytest.raises(DesignError, match=r"zlib_bytes must have shape \(n\) = \(2,\), got \(3,\)"):
        zlib_ratio(np.zeros(2), np.ones(3))
    with pytest.raises(DesignError, match="zlib_bytes must be positive"):
        zlib_ratio(np.zeros(2), np.zeros(2))
    with pytest.raises(DesignError, match="conditional has 1 values that are NaN"):
        recall(np.zeros(2), np.array([np.nan, -1.0]))
    with pytest.raises(DesignError, match="at most 0"):
        recall(np.ones(2), -np.ones(2))
    assert np.isfinite(recall(np.array([0.0]), np.array([-1.0])).value).all()


def test_defaults_of_other_models_are_what_they_were():
    for link in ("logit", "log", "log_p"):
        assert default_attacks(2, link) == ("rmia", "lira", "bavaria", "learned", "rmia_offline")
        assert default_attacks(1, link) == ("rmia", "lira", "bavaria", "rmia_offline")
        assert default_attacks(0, link) == ("population", "loss")
    for references in (2, 1, 0):
        assert default_attacks(references, "label") == ("gap",)
        for link in ("logit", "label"):  # a classifier of texts
            text = default_attacks(references, link, language=True, has_base=True)
            assert text == default_attacks(references, link)


def test_defaults_of_language_models_run():
    for references in (0, 1, 2):
        for base in (True, False):
            names = default_attacks(references, "log_p", language=True, has_base=base)
            assert ("base_ratio" in names) == base
            assert ("rmia" in names) == (references > 0)
            keys = extra_signals(names)
            signals = signals_of(
                -np.arange(1.0, 9), {key: -np.ones(8) for key in keys if key != "zlib"}, 8 * references
            )
            signals = dataclasses.replace(signals, extra={**signals.extra, "zlib": np.full(8, 20.0)})
            for name in names:
                assert available(name, signals) == ""
                assert run_attack(name, signals)[0].value.shape == (8,)


def test_rmia_takes_the_geometric_mean_probability_of_a_token():
    """One IN and one OUT reference, γ = 1: dominated are population texts whose p / ½(p_in + p_out) is no larger."""
    target, reference = np.log([0.5, 0.2]), np.log([[0.4, 0.1], [0.4, 0.2]])
    member = np.array([[True, False], [False, True]])
    population, of_population = np.log([0.3, 0.3, 0.3]), np.log([[0.1, 0.1], [0.15, 0.25], [0.5, 0.5]])
    signals = Signals(target, reference, member, population, of_population, np.zeros((3, 2), bool), "log_p")
    scores, _ = run_attack("rmia", signals)
    ratio = np.array([0.5 / 0.25, 0.2 / 0.3])
    of_z = np.array([0.3 / 0.1, 0.3 / 0.2, 0.3 / 0.5])
    np.testing.assert_allclose(scores.value, (of_z <= ratio[:, None]).mean(axis=1))
    np.testing.assert_allclose(scores.tie, np.log(ratio))
    for a in (0.0, 0.4, 1.0):
        offline, used = run_attack("rmia_offline", signals, a=a)
        of_in = [(1 + a) / 2 * p + (1 - a) / 2 for p in (0.1, 0.4)]
        np.testing.assert_allclose(offline.tie, np.log([0.5 / of_in[0], 0.2 / of_in[1]]))
        assert used == {**used, "a": a, "a_tuned": False}


def test_a_of_offline_rmia_is_tuned_on_references_of_a_language_model():
    """Texts of which some are hard for everybody: the AUC of RMIA moves with `a`, and tuning takes the best one."""
    rng = np.random.default_rng(0)
    hard = -rng.gamma(2, 1.5, 2000)
    half = rng.random((2000, 2)) < 0.5
    member = np.stack([half[:, 0], ~half[:, 0], half[:, 1], ~half[:, 1]], axis=1)
    gain = np.where(rng.random(2000) < 0.5, 0.1, 0.6) * hard  # a share of what is left to learn
    values = np.minimum(hard[:, None] - 0.7 * gain[:, None] * member + rng.normal(0, 0.15, member.shape), -1e-3)
    truth = rng.random(2000) < 0.5
    target = np.minimum(hard - 0.7 * gain * truth + rng.normal(0, 0.15, 2000), -1e-3)
    signals = Signals(target, values, member, target[~truth], values[~truth], member[~truth], "log_p")
    tuned, used = run_attack("rmia_offline", signals)
    assert used["a_tuned"]
    found = {a: auc(run_attack("rmia_offline", signals, a=a)[0].rank(), truth).value for a in (0.0, 0.5, 1.0)}
    assert max(found.values()) - min(found.values()) > 0.02
    assert auc(tuned.rank(), truth).value > max(found.values()) - 0.01


def test_a_certain_token_is_no_division_by_zero():
    reference, member = np.zeros((2, 2)), np.array([[True, False], [False, True]])
    signals = Signals(np.zeros(2), reference, member, np.zeros(2), reference, member, "log_p")
    assert np.isfinite(run_attack("rmia_offline", signals, a=1.0)[0].tie).all()


def test_equal_distributions_give_nothing():
    """Members and non-members alike: each AUC's 99.9 % interval holds 0.5."""
    rng = np.random.default_rng(3)
    n = 600
    member = np.arange(n) < n // 2
    keys = extra_signals(LANGUAGE)
    extra = {key: rng.uniform(20, 90, n) if key == "zlib" else -rng.gamma(4, 0.8, n) for key in keys}
    signals = signals_of(-rng.gamma(4, 0.7, n), extra)
    for name in [*LANGUAGE, "loss"]:
        found = auc(run_attack(name, signals)[0].rank(), member, confidence=0.999)
        assert found.low <= 0.5 <= found.high, name


WORDS = {word: i for i, word in enumerate(["[PAD]", "[UNK]", *(f"w{i}" for i in range(30))])}


@pytest.fixture(scope="module")
def leak():
    """Sixty random texts, five of which a tiny GPT-2 was trained on for long; target, base, and the five."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    from mlflow_privacy.text import LanguageModel

    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(WORDS, unk_token="[UNK]"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]", pad_token="[PAD]")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(WORDS), n_embd=32, n_layer=1, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0
    )
    base = transformers.GPT2LMHeadModel(config).eval()
    model = transformers.GPT2LMHeadModel(config)
    model.load_state_dict(base.state_dict())
    rng = np.random.default_rng(0)
    texts = np.array([" ".join(f"w{i}" for i in rng.integers(0, 30, 16)) for _ in range(60)], object)
    member = np.zeros(60, bool)
    member[rng.choice(60, 5, replace=False)] = True
    ids = torch.tensor([[WORDS[word] for word in text.split()] for text in texts[member]])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    model.eval()
    records = Records(texts, np.zeros(60, int), np.arange(60).astype(str))
    return (*(LanguageModel(m, tokenizer, "causal_lm", 32) for m in (model, base)), records, member)


@pytest.mark.parametrize("name", ["loss", "min_k", "min_k_plus", "base_ratio", "zlib"])
def test_texts_learnt_by_heart_top_the_list(leak, name):
    from mlflow_privacy.signals import model_outputs
    from mlflow_privacy.signals.language.outputs import LanguageAids

    target, base, records, member = leak
    keys = extra_signals([name])
    for model, found in ((target, True), (base, False)):
        aids = LanguageAids(base=base)
        out = model_outputs(model, records, task="classification", device="cpu", extras=keys, aids=aids)
        scores, _ = run_attack(name, signals_of(out.signal, out.extra))
        top = np.argsort(-scores.rank(), kind="stable")[: member.sum()]
        assert bool(member[top].all()) == found


def test_the_score_of_loss_is_minus_the_loss(leak):
    from mlflow_privacy.signals import model_outputs

    torch = pytest.importorskip("torch")
    target, _, records, _ = leak
    out = model_outputs(target, records, task="classification", device="cpu")
    ids = torch.tensor([[WORDS[word] for word in records.x[0].split()]])
    with torch.no_grad():
        loss = float(target.model(input_ids=ids, labels=ids).loss)
    scores, _ = run_attack("loss", signals_of(out.signal))
    assert math.isclose(scores.value[0], -loss, rel_tol=1e-5)
