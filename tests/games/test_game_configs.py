"""Games by config files: each sample runs shrunken from its file to an audited version with the game's answer."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mlflow_privacy.cli import main
from mlflow_privacy.errors import ConfigError
from mlflow_privacy.experiment.data import split_indices
from mlflow_privacy.experiment.games import game_of
from mlflow_privacy.experiment.load import load_config, parse_config
from mlflow_privacy.experiment.run import evaluator_options

CONFIGS = Path(__file__).parents[2] / "configs" / "games"
DIGITS = [
    *("data.dataset=digits", "train.model_name=cnn", "train.model_options={channels: [4], hidden: []}"),
    *("train.batch_size=32", "train.epochs=1"),
]
SMALL = ["audit.num_ref_models=1", "audit.blind_baseline=false", "run.log_dir=out"]


def run(name, *overrides):
    arguments = ["run", str(CONFIGS / f"{name}.yaml"), "--device", "cpu"]
    for override in (*SMALL, *overrides):
        arguments += ["--set", f'"{override}"' if " " in override else override]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(Path("out/experiment.json").read_text())["targets"]


@pytest.mark.parametrize(
    ("training", "canaries"),
    [
        ("dp", "mislabelled"),
        ("nondp", "natural"),
        pytest.param("dp", "natural", marks=pytest.mark.slow),
        pytest.param("nondp", "mislabelled", marks=pytest.mark.slow),
    ],
)
def test_dp_configs(tracking, canaries, training):
    if training == "dp":
        pytest.importorskip("opacus")
    sizes = ["data.size=200", "dp_audit.canary_size=80"]
    (target,) = run(f"cifar10_{training}_{canaries}", *DIGITS, *sizes)
    assert target["audit"]["privacy/dp/epsilon"] >= 0
    params = tracking.get_run(target["run_id"]).data
    if training == "dp":
        assert 7 < params.metrics["dp/epsilon"] <= 8
        assert target["audit"]["privacy/dp/claimed_epsilon"] == pytest.approx(params.metrics["dp/epsilon"], abs=1e-5)
        assert target["audit"]["privacy/dp/contradicted"] == 0
    else:
        assert "privacy/dp/claimed_epsilon" not in target["audit"]
    audit = json.loads(
        Path(tracking.download_artifacts(target["audit_run_id"], "privacy/metrics.json")).read_text(encoding="utf-8")
    )
    assert audit["n_members"] + audit["n_nonmembers"] == 80  # of 200 records only canaries are asked about


@pytest.mark.slow
def test_range_of_images(tracking):
    (target,) = run("cifar10_range", *DIGITS, "data.size=60", "audit.data_size=24", "ramia.sample_size=3")
    assert 0 <= target["audit"]["privacy/range/auc"] <= 1
    assert 0 <= target["audit"]["privacy/range/moved_auc"] <= 1


def test_range_of_columns(tracking):
    sizes = ["data.dataset=purchase100_synthetic", "data.options.rows=200", "data.size=80", "audit.data_size=40"]
    (target,) = run(
        "purchase100_range", *sizes, "audit.population_size=20", "train.epochs=1", "train.model_options={hidden: [8]}"
    )
    assert "privacy/range/mean_auc" in target["audit"] or "privacy/range/auc" in target["audit"]
    version = tracking.get_model_version(*target["model_uri"].removeprefix("models:/").split("/"))
    assert version.tags["privacy.range"].startswith("AUC")


@pytest.mark.slow
def test_usage_config(tracking):
    (target,) = run("cifar10_usage", *DIGITS, "data.size=80")
    version = tracking.get_model_version(*target["model_uri"].removeprefix("models:/").split("/"))
    assert "privacy.usage" in version.tags


def sentences(rng, n, length=8):
    """Words that stand at even places never stand at odd ones: a language with something to learn."""
    from tiny_text import WORDS

    at = (WORDS[:6], WORDS[6:])
    return [" ".join(rng.choice(at[i % 2]) for i in range(length)) for _ in range(n)]


def train_masked_model(folder, texts, *, steps):
    """A BERT of two layers, trained from random weights to fill in one masked word of each text; saved to a folder."""
    import torch
    import transformers
    from tiny_text import WORDS
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"[PAD]": 0, "[MASK]": 1, "[UNK]": 2, **{word: i + 3 for i, word in enumerate(WORDS)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"mask_token": "[MASK]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    shape = dict(vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    torch.manual_seed(0)
    config = transformers.BertConfig(**shape, intermediate_size=64, max_position_embeddings=64)
    model = transformers.BertForMaskedLM(config).train()
    ids = torch.tensor(tokenizer(texts)["input_ids"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        batch = ids[torch.randint(len(ids), (64,))]
        hidden, place = batch.clone(), torch.randint(batch.shape[1], (64, 1))
        hidden.scatter_(1, place, 1)
        loss = model(hidden, labels=torch.where(hidden == 1, batch, -100)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def fitting_words(folder, texts):
    """Share of replaced words that may stand where they were put."""
    from tiny_text import WORDS

    from mlflow_privacy.signals.language.neighbours import MaskedModel, neighbours
    from mlflow_privacy.zoo.transformers_models import load_masked

    masked = MaskedModel(*load_masked(str(folder), None))
    drawn = neighbours(masked, texts, n=4, replaced=1, seed=0, device="cpu")
    fits = []
    for i, new in enumerate(drawn):
        pairs = zip(texts[i // 4].split(), new.split(), strict=True)
        (place,) = (k for k, (old, word) in enumerate(pairs) if old != word)
        fits.append((new.split()[place] in WORDS[:6]) == (place % 2 == 0))
    return float(np.mean(fits))


@pytest.mark.slow
def test_range_of_texts_with_a_masked_model_that_has_learnt_its_language(tracking, tmp_path):
    import pandas as pd
    from tiny_text import make_model, make_tokenizer

    rng = np.random.default_rng(0)
    train_masked_model(tmp_path / "blank", sentences(rng, 64), steps=0)
    train_masked_model(tmp_path / "bert", sentences(rng, 500), steps=300)
    fresh = sentences(rng, 40)
    assert fitting_words(tmp_path / "bert", fresh) > 0.9
    assert fitting_words(tmp_path / "blank", fresh) < 0.75
    make_model().save_pretrained(tmp_path / "gpt2")
    make_tokenizer(pad=True).save_pretrained(tmp_path / "gpt2")
    pd.DataFrame({"text": sentences(rng, 200)}).to_parquet(tmp_path / "news.parquet")
    (target,) = run(
        "agnews_range",
        *(f"data.dataset={tmp_path / 'news.parquet'}", "data.text=text", "data.tokenizer=null", "data.size=160"),
        *(
            f"train.model_name={tmp_path / 'gpt2'}",
            "train.max_length=32",
            "train.epochs=60",
            "train.learning_rate=0.003",
        ),
        *(f"ramia.mask_model={tmp_path / 'bert'}", f"ramia.mask_tokenizer={tmp_path / 'bert'}"),
        *("ramia.sample_size=4", "ramia.num_masks=1", "audit.data_size=120", "audit.population_size=30"),
        "audit.num_ref_models=2",
    )
    # The target knows its texts by heart, so also texts that differ from them by one fitting word stand out.
    assert target["audit"]["privacy/range/auc_low"] > 0.5
    assert target["audit"]["privacy/range/auc"] > 0.6


def test_experiments_draw_new_coins_for_the_same_canaries():
    one, two = (split_indices(100, seed=0, experiment=i, population_size=10, canaries=40) for i in (0, 1))
    np.testing.assert_array_equal(one.canaries, two.canaries)
    assert not np.array_equal(one.holdout, two.holdout)
    for split in (one, two):
        assert set(split.holdout) <= set(split.canaries)
        assert len(split.train) + len(split.holdout) == 90
        assert len(set(split.train) - set(split.canaries)) == 50


def test_each_canary_has_a_fair_coin_of_its_own():
    share = np.zeros(100)
    for seed in range(300):
        share[split_indices(100, seed=0, experiment=seed, canaries=100).train] += 1
    assert np.abs(share / 300 - 0.5).max() < 4.5 * np.sqrt(0.25 / 300)
    sizes = [len(split_indices(100, seed=0, experiment=seed, canaries=100).train) for seed in range(300)]
    assert np.std(sizes) == pytest.approx(5, rel=0.2)  # Poisson, not half of them exactly


def config(**sections):
    return parse_config({"data": {"dataset": "wine"}, **sections})


def test_a_section_decides_the_game_unless_the_audit_says_otherwise():
    assert game_of(config())[0] == "membership"
    assert "game" not in evaluator_options(config())
    assert game_of(config(dp_audit={"delta": 1e-6})) == ("dp", {"delta": 1e-6})
    assert game_of(config(ramia={"radius": 2}))[1]["radius"] == 2
    assert game_of(config(dp_audit={}, audit={"game": "membership"}))[0] == "membership"
    assert game_of(config(ramia={}, audit={"game_options": {"n_samples": 3}}))[1]["n_samples"] == 3
    top = game_of(config(ramia={"trim_ratio": 0.2, "trim_direction": "top"}))[1]
    assert (top["trim_ratio"], top["trim_direction"]) == (0.2, "high")
    assert game_of(config(ramia={"trim_ratio": 0.2, "trim_direction": "none"}))[1]["trim_ratio"] == 0


def test_the_noise_of_the_section_trains_target_and_references():
    train = config(dp_audit={"training_alg": "dp", "noise_multiplier": 2}).variants()["mlp"]
    assert train.dp == {"noise_multiplier": 2.0, "max_grad_norm": 1.0, "delta": 1e-5}
    assert config(dp_audit={"training_alg": "dp"}).variants()["mlp"].dp["target_epsilon"] == 8
    own = {"dp": {"noise_multiplier": 1}}
    assert config(train=own, dp_audit={"training_alg": "dp"}).variants()["mlp"].dp == {"noise_multiplier": 1}
    assert config(dp_audit={}).variants()["mlp"].dp is None


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"audit": {"game": "dp"}}, "audit.game dp needs canaries"),
        ({"audit": {"game": "usage", "game_options": {"treshold": 1}}}, "did you mean 'threshold'"),
        ({"ramia": {"range_function": "l3"}}, "ramia.range_function: there is no range function 'l3'"),
        ({"ramia": {"transformations": ["flip"]}}, "ramia.transformations knows"),
        ({"dp_audit": {"noise_multiplier": 1, "target_epsilon": 2}}, "not both"),
        ({"dp_audit": {"canary_dataset": "mislabeled"}}, "did you mean mislabelled"),
        ({"train": {"dp": {"noise": 1}}}, "noise_multiplier"),
    ],
)
def test_faults_are_named_by_their_path(sections, message):
    with pytest.raises(ConfigError, match=message):
        config(**sections)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_sample_is_valid(path):
    assert game_of(load_config(path))[0] in path.stem.replace("nondp", "dp")
