"""scikit-learn references, and recipes of anything."""

from __future__ import annotations

import io
import json
import logging
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import LinearSVC

from mlflow_privacy.errors import RecipeError, StoreError, UnsafeError
from mlflow_privacy.fingerprint import canonical_json, recipe_digest
from mlflow_privacy.signals import model_outputs
from mlflow_privacy.trainers import TRAINERS, import_allowed, make_recipe, trainer_for
from mlflow_privacy.trainers.canonical import canonical
from mlflow_privacy.types import Recipe, Records


def blobs(n=90, classes=3, d=4, seed=0, names=None):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    x = rng.normal(size=(classes, d))[y] * 2 + rng.normal(size=(n, d))
    return Records(x, y if names is None else np.array(names)[y], np.arange(n).astype(str))


def halves(n, seed=0):
    row = np.zeros(n, bool)
    row[np.random.default_rng(seed).permutation(n)[: n // 2]] = True
    return np.stack([row, ~row])


def train(estimator, data, rows, seeds, task="classification"):
    recipe = make_recipe(estimator, None, task=task)
    return list(trainer_for(recipe).train(recipe, data, rows, seeds))


def digest(estimator, settings=None):
    return recipe_digest(make_recipe(estimator, settings, task="classification"))


def test_reference_is_fitted_on_its_members_only():
    data = blobs()
    rows = halves(90)
    scaled = make_pipeline(StandardScaler(), LogisticRegression())
    a, b = train(scaled, data, rows, [0, 1])
    for row, model in zip(rows, (a, b)):
        expected = clone(scaled).fit(data.x[row], data.y[row])
        np.testing.assert_allclose(model.predict_proba(data.x), expected.predict_proba(data.x))
    np.testing.assert_allclose(a[0].mean_, data.x[rows[0]].mean(0))


def test_fixed_random_states_vary_with_the_seed_everywhere_inside():
    data = blobs()
    rows = np.repeat(halves(90)[:1], 3, 0)
    forest = make_pipeline(StandardScaler(), RandomForestClassifier(5, random_state=0))
    a, b, c = (m.predict_proba(data.x) for m in train(forest, data, rows, [1, 1, 2]))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    search = GridSearchCV(SGDClassifier(random_state=3), {"alpha": [0.1]}, cv=2)
    first, second = train(search, data, rows[:2], [1, 2])
    assert first.estimator.random_state not in (3, second.estimator.random_state)


def test_fitted_target_is_not_touched_and_not_kept():
    data = blobs()
    target = LogisticRegression(warm_start=True).fit(data.x, data.y)
    before = target.coef_.copy()
    recipe = make_recipe(target, None, task="classification")
    assert not hasattr(recipe.template, "coef_")
    list(trainer_for(recipe).train(recipe, data, halves(90), [0, 1]))
    assert np.array_equal(target.coef_, before)


def test_fingerprint_covers_parameters_but_no_speed_and_no_seed():
    base = digest(RandomForestClassifier())
    assert base == digest(RandomForestClassifier(n_jobs=2, verbose=1, random_state=7))
    assert base != digest(RandomForestClassifier(max_depth=3))
    assert base == digest(RandomForestClassifier().fit([[0.0], [1.0]], [0, 1]))
    assert digest(RandomForestClassifier(), {"max_depth": 3}) == digest(RandomForestClassifier(max_depth=3))
    assert digest(make_pipeline(StandardScaler(), LogisticRegression())) != digest(LogisticRegression())


def test_fingerprint_covers_the_code_of_functions():
    one = FunctionTransformer(lambda x: x + 1)
    same = FunctionTransformer(lambda x: x + 1)
    other = FunctionTransformer(lambda x: x + 2)
    log = [FunctionTransformer(np.log1p), FunctionTransformer(np.expm1)]
    pipes = [digest(make_pipeline(step, LogisticRegression())) for step in (one, same, other, *log)]
    assert pipes[0] == pipes[1]
    assert len(set(pipes)) == 4


def test_spec_is_plain_json_and_tells_nan_from_none():
    from sklearn.impute import SimpleImputer

    recipe = make_recipe(make_pipeline(SimpleImputer(), LogisticRegression()), None, task="classification")
    text = canonical_json(recipe.spec)
    assert json.loads(text) == json.loads(json.dumps(recipe.spec))
    assert digest(SimpleImputer()) != digest(SimpleImputer(missing_values=None))


def test_unknown_parameter_has_the_nearest_one():
    with pytest.raises(RecipeError, match=r"'max_dept' is no parameter of it, did you mean 'max_depth'\?"):
        make_recipe(RandomForestClassifier(), {"max_dept": 3}, task="classification")


def test_frozen_estimator_is_refused():
    frozen = pytest.importorskip("sklearn.frozen")
    data = blobs()
    fitted = frozen.FrozenEstimator(StandardScaler().fit(data.x))
    with pytest.raises(RecipeError, match=r"frozenestimator is a FrozenEstimator.*train_fn"):
        make_recipe(make_pipeline(fitted, LogisticRegression()), None, task="classification")


def test_anything_else_is_refused_with_the_remedy():
    with pytest.raises(RecipeError, match=r"builtins.dict cannot be trained.*train_fn\(x, y, seed\)"):
        make_recipe({}, None, task="classification")
    with pytest.raises(RecipeError, match=r"no trainer for recipes of kind 'jax'.*callable.*sklearn.*torch"):
        trainer_for(Recipe("jax", {}))


@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(),
        make_pipeline(StandardScaler(), MLPClassifier((4,), max_iter=20)),
        LinearSVC(),
    ],
    ids=lambda e: type(e).__name__,
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_save_and_load_give_the_same_outputs(tmp_path, estimator):
    data = blobs()
    recipe = make_recipe(estimator, None, task="classification")
    trainer = trainer_for(recipe)
    model = next(trainer.train(recipe, data, halves(90), [0, 1]))
    assert trainer.save(recipe, model, tmp_path)
    a, b = (model_outputs(m, data, task="classification") for m in (model, trainer.load(recipe, tmp_path)))
    assert np.array_equal(a.signal, b.signal)


@pytest.mark.parametrize(
    "estimator",
    [RandomForestClassifier(3), make_pipeline(FunctionTransformer(lambda x: x), LogisticRegression())],
    ids=["trees", "lambda"],
)
def test_what_cannot_be_trusted_on_load_is_not_saved(tmp_path, estimator):
    data = blobs()
    recipe = make_recipe(estimator, None, task="classification")
    model = next(trainer_for(recipe).train(recipe, data, halves(90), [0, 1]))
    assert trainer_for(recipe).save(recipe, model, tmp_path) is False
    assert list(tmp_path.iterdir()) == []


class _Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_pickle_named_like_a_model_is_refused_and_nothing_runs(tmp_path):
    (tmp_path / "model.skops").write_bytes(pickle.dumps(_Bomb(tmp_path / "exploded")))
    recipe = make_recipe(LogisticRegression(), None, task="classification")
    with pytest.raises(StoreError, match=r"model\.skops is not a readable"):
        trainer_for(recipe).load(recipe, tmp_path)
    assert not (tmp_path / "exploded").exists()


def test_skops_file_with_foreign_types_is_refused_and_nothing_runs(tmp_path):
    schema = {
        "__class__": "getoutput",
        "__module__": "subprocess",
        "__loader__": "FunctionNode",
        "__id__": 1,
        "content": "getoutput",
        "protocol": 2,
        "_skops_version": "0.10",
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("schema.json", json.dumps(schema))
    (tmp_path / "model.skops").write_bytes(file.getvalue())
    recipe = make_recipe(LogisticRegression(), None, task="classification")
    with pytest.raises(UnsafeError, match=r"subprocess\.getoutput.*trained again"):
        trainer_for(recipe).load(recipe, tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 nothing"])
def test_missing_or_damaged_file_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "model.skops").write_bytes(content)
    recipe = make_recipe(LogisticRegression(), None, task="classification")
    with pytest.raises(StoreError):
        trainer_for(recipe).load(recipe, tmp_path)


def test_class_that_a_half_never_saw_gets_the_floor():
    data = blobs(names=["a", "b", "c"])
    row = (data.y != "c")[None]
    model = train(LogisticRegression(), data, row, [0])[0]
    out = model_outputs(model, data, task="classification", classes=np.unique(data.y))
    unseen = data.y == "c"
    assert (out.signal[unseen] < -30).all()
    assert (out.signal[unseen] < out.signal[~unseen].min()).all()
    assert not out.correct[unseen].any()


def test_text_pipelines_train_on_object_arrays():
    texts = np.array(["good fine", "bad awful", "good nice", "bad poor"] * 5, object)
    data = Records(texts, np.array([1, 0] * 10), np.arange(20).astype(str))
    model = train(make_pipeline(CountVectorizer(), LogisticRegression()), data, halves(20), [0, 1])[0]
    assert model_outputs(model, data, task="classification").correct.all()


# Functions


def fit_logistic(x, y, seed):
    return LogisticRegression(C=STRENGTH).fit(x, y)


STRENGTH = 2.0


def test_train_fn_gets_members_labels_and_seed():
    calls = []

    def train_fn(x, y, seed):
        calls.append((x, y, seed))
        return LogisticRegression().fit(x, y)

    data = blobs()
    rows = halves(90)
    recipe = make_recipe(None, {"version": 1}, train_fn=train_fn, task="classification")
    models = list(trainer_for(recipe).train(recipe, data, rows, [7, 8]))
    assert [seed for *_, seed in calls] == [7, 8]
    assert np.array_equal(calls[0][0], data.x[rows[0]])
    assert np.array_equal(calls[1][1], data.y[rows[1]])
    assert len(models) == 2


def test_train_fn_that_forgets_its_seed_is_seeded_anyway():
    recipe = make_recipe(None, {}, train_fn=lambda x, y, seed: np.random.rand(3), task="classification")  # noqa: NPY002
    data = blobs()
    a, b, c = trainer_for(recipe).train(recipe, data, np.repeat(halves(90)[:1], 3, 0), [1, 1, 2])
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_fingerprint_of_a_function_covers_closure_defaults_and_globals(monkeypatch):
    def make(width, default=1):
        def train_fn(x, y, seed, extra=default):
            return width

        return train_fn

    digests = [
        recipe_digest(make_recipe(None, settings, train_fn=fn, task="classification"))
        for fn, settings in (
            (make(1), {}),
            (make(1), {}),
            (make(2), {}),
            (make(1, default=2), {}),
            (make(1), {"v": 1}),
        )
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4
    before = recipe_digest(make_recipe(None, {}, train_fn=fit_logistic, task="classification"))
    monkeypatch.setattr(sys.modules[__name__], "STRENGTH", 3.0)
    assert before != recipe_digest(make_recipe(None, {}, train_fn=fit_logistic, task="classification"))


def test_fingerprint_of_a_function_is_the_same_in_another_process(tmp_path):
    (tmp_path / "project.py").write_text(
        "import numpy as np\nW = (1, 2)\ndef helper(x):\n    return x * W[0]\n"
        "def train_fn(x, y, seed):\n    f = lambda v: helper(v)\n    return f(np.asarray(x))\n"
    )
    code = (
        "import project\nfrom mlflow_privacy.trainers import make_recipe\n"
        "from mlflow_privacy.fingerprint import recipe_digest\n"
        "print(recipe_digest(make_recipe(None, {}, train_fn=project.train_fn, task='classification')))"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONPATH": f"{tmp_path}:{':'.join(sys.path)}", "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1
    assert len(runs.pop().strip()) == 64


@pytest.mark.parametrize("train_fn", [lambda x, y: 0, lambda x, y, seed, other: 0, lambda x, y, *, seed: 0])
def test_train_fn_of_another_signature_is_refused(train_fn):
    with pytest.raises(RecipeError, match=r"train_fn must be a function train_fn\(x, y, seed\) -> model"):
        make_recipe(None, {}, train_fn=train_fn, task="classification")


def test_train_fn_that_returns_nothing_is_refused():
    recipe = make_recipe(None, {}, train_fn=lambda x, y, seed: None, task="classification")
    with pytest.raises(RecipeError, match=r"train_fn returned None"):
        next(trainer_for(recipe).train(recipe, blobs(), halves(90), [1, 2]))


def test_models_of_a_function_are_saved_only_in_a_safe_form(tmp_path):
    data = blobs()
    recipe = make_recipe(None, {}, train_fn=fit_logistic, task="classification")
    trainer = trainer_for(recipe)
    model = next(trainer.train(recipe, data, halves(90), [0, 1]))
    assert trainer.save(recipe, object(), tmp_path) is False
    assert list(tmp_path.iterdir()) == []
    assert trainer.save(recipe, model, tmp_path)
    assert np.array_equal(trainer.load(recipe, tmp_path).coef_, model.coef_)


def test_named_code_is_never_imported_unasked(tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UnsafeError, match=r"evil_module:run.*allow_code"):
        make_recipe(None, {"train_fn": "evil_module:run"}, task="classification")
    with pytest.raises(UnsafeError, match=r"allow_code=\['evil_module:run'\]"):
        import_allowed("evil_module:run", [])
    with pytest.raises(UnsafeError):
        import_allowed("evil_module:run", ["evil_module", "evil_module:other", "*"])
    assert "evil_module" not in sys.modules


@pytest.mark.parametrize("dotted", ["os", "../x:y", "os:system('ls')", "", None, "os.:x", "os;x:y"])
def test_a_name_that_is_no_dotted_name_is_refused(dotted):
    with pytest.raises(RecipeError, match=r"must look like"):
        import_allowed(dotted, [dotted])


def test_allowed_code_is_imported():
    assert import_allowed("os.path:join", ["os.path.join"]) is import_allowed("os.path.join", ["os.path:join"])
    with pytest.raises(RecipeError, match=r"is allowed but cannot be imported"):
        import_allowed("os.path:nothing_there", ["os.path:nothing_there"])


def test_trainers_are_found_by_kind():
    assert set(TRAINERS) == {"sklearn", "torch", "callable", "fast_resnet", "transformers", "booster", "keras"}
    assert type(TRAINERS["sklearn"]).__name__ == "SklearnTrainer"


LOGGER = logging.getLogger("somewhere")


def test_loggers_and_clients_beside_a_function_do_not_change_its_fingerprint():
    def train_fn(x, y, seed):
        LOGGER.info("training")
        return x

    before = canonical(train_fn)
    LOGGER.setLevel("ERROR")
    assert canonical(train_fn) == before


def test_canonical_form_ends_on_cycles():
    loop: list = [1]
    loop.append(loop)
    assert canonical(loop) == [1, {"cycle": "builtins.list"}]


def test_importing_trainers_and_signals_loads_no_framework():
    code = (
        "import sys, mlflow_privacy.trainers, mlflow_privacy.signals;"
        "heavy = {'torch', 'sklearn', 'pandas', 'mlflow', 'xgboost', 'lightgbm', 'catboost', 'keras', 'skops'};"
        "print(sorted(set(sys.modules) & heavy))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
