"""How records go into a module: in the type in which they are logged, as one tensor or several."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from mlflow_privacy.errors import RecipeError, SignalError
from mlflow_privacy.fingerprint import recipe_digest
from mlflow_privacy.signals import model_outputs
from mlflow_privacy.signals.classification import phi_from_logits
from mlflow_privacy.trainers import make_recipe, trainer_for
from mlflow_privacy.trainers.stacked.way import costs
from mlflow_privacy.trainers.torch.columns import expanded, flattened, parts
from mlflow_privacy.trainers.torch.inputs import inputs_of
from mlflow_privacy.types import Records

RNG = np.random.default_rng(0)
N = 40
Y = np.arange(N) % 2
IDS = np.arange(N).astype(str)
NUM = RNG.normal(size=(N, 2)).astype(np.float32)
CAT = RNG.integers(0, 6, N)
WORDS = RNG.integers(0, 6, (N, 5))
TABLE = np.column_stack([CAT, NUM]).astype(np.float32)  # a category and two amounts, as one float table
SETTINGS = {"optimizer": "adam", "learning_rate": 0.05, "epochs": 2, "batch_size": 8}


class Mixed(nn.Module):
    """Begins with an embedding, and reads fractions beside it."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(6, 3)
        self.out = nn.Linear(5, 2)

    def forward(self, x):
        return self.out(torch.cat([self.embed(x[:, 0].long()), x[:, 1:]], dim=1))


class Words(nn.Module):
    """An embedding behind a bare parameter and another layer."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(3, 2)
        self.embed = nn.Embedding(6, 3)
        self.scale = nn.Parameter(torch.ones(3))

    def reset_parameters(self):
        nn.init.ones_(self.scale)

    def forward(self, x):
        return self.out((self.embed(x) * self.scale).mean(dim=1))


class Looked(nn.Module):
    """Looks whole numbers up in a bare parameter: no layer says that it does."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(6, 2))

    def forward(self, x):
        return self.table[x].mean(dim=1)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(6, 3)
        self.out = nn.Linear(5, 2)

    def forward(self, num, cat):
        return self.out(torch.cat([num, self.embed(cat)], dim=1))


class OfDict(Pair):
    def forward(self, batch):
        return super().forward(batch["num"], batch["cat"])


class OfTuple(Pair):
    def forward(self, batch):
        num, cat = batch
        return super().forward(num, cat)


class OfColumns(nn.Module):
    """Takes the columns of a table by name, each as (n,) or as (n, 1)."""

    def __init__(self, flat=True):
        super().__init__()
        self.flat = flat
        self.embed = nn.Embedding(6, 3)
        self.out = nn.Linear(5, 2)

    def forward(self, age, income, job):
        if self.flat:
            age, income = age[:, None], income[:, None]
        else:
            job = job[:, 0]
        return self.out(torch.cat([age, income, self.embed(job)], dim=1))


NAMED = pd.DataFrame(flattened({"num": NUM, "cat": CAT}))
ORDERED = pd.DataFrame(flattened({"0": NUM, "1": CAT}))
PEOPLE = pd.DataFrame({"job": CAT, "age": RNG.integers(18, 80, N), "income": NUM[:, 0], "region": CAT})


def records(x):
    return Records(x, Y, IDS)


def signals(module, x):
    return model_outputs(module, records(x), task="classification", device="cpu").signal


@torch.no_grad()
def expected(module, *arrays):
    return phi_from_logits(module.eval()(*map(torch.as_tensor, arrays)).numpy(), Y)


def test_fractions_stay_fractions_in_a_net_that_begins_with_an_embedding():
    net = Mixed()
    for table in (TABLE, TABLE.astype(np.float64), pd.DataFrame(TABLE)):
        np.testing.assert_allclose(signals(net, table), expected(net, TABLE), rtol=1e-4, atol=1e-5)
    cut = expected(net, np.trunc(TABLE))
    assert np.abs(expected(net, TABLE) - cut).max() > 0.05  # a net that would show it


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("net", [Words(), Looked()], ids=["behind a parameter", "no layer"])
def test_whole_numbers_are_looked_up_wherever_the_embedding_stands(net, kind):
    np.testing.assert_allclose(signals(net, WORDS.astype(kind)), expected(net, WORDS), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("table", [WORDS, WORDS.astype(np.uint8), WORDS > 2, pd.DataFrame(WORDS)])
def test_whole_numbers_become_floats_where_the_module_takes_floats(table):
    net = nn.Linear(5, 2)
    taken = inputs_of(net, table)
    assert taken.dtype == torch.float32
    np.testing.assert_allclose(
        signals(net, table), expected(net, np.asarray(table).astype(np.float32)), rtol=1e-4, atol=1e-5
    )


def test_indices_that_float32_would_round_stay_whole_where_the_module_takes_both():
    class Hashed(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(7, 2)

        def forward(self, x):
            return self.table(x.long() % 7).mean(dim=1)

    net, large = Hashed(), WORDS + 2**24 + np.arange(5)
    assert inputs_of(net, large).dtype == torch.long
    np.testing.assert_allclose(signals(net, large), expected(net, large), rtol=1e-5)
    assert inputs_of(net, WORDS).dtype == torch.float32


def test_fractions_for_a_module_that_takes_whole_numbers_only_are_refused_in_words():
    with pytest.raises(SignalError, match="Words takes whole numbers only.*fractions.*log_lineage"):
        signals(Words(), WORDS + 0.5)
    late = WORDS.astype(np.float32)
    late = np.concatenate([late] * 3)
    late[-1, -1] = 0.25  # behind the records that are looked at first
    with pytest.raises(RecipeError, match="some of the records are fractions"):
        inputs_of(Words(), late)


def reference(module, x, **more):
    recipe = make_recipe(module, SETTINGS | more, task="classification", data=records(x))
    rows = np.stack([np.arange(N) < 20, np.arange(N) % 2 == 0])
    return recipe, list(trainer_for(recipe).train(recipe, records(x), rows, [1, 2], device="cpu"))


def test_stacked_references_of_whole_numbers_are_those_of_the_same_floats():
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
    for whole, floats in zip(reference(net, WORDS)[1], reference(net, WORDS.astype(np.float32))[1], strict=True):
        assert all(map(torch.equal, whole.parameters(), floats.parameters()))


@pytest.mark.parametrize("net", [Mixed(), Words()], ids=["fractions", "whole"])
def test_references_are_trained_on_the_same_type_as_the_target_is_asked_about(net, tmp_path):
    x, seen = (TABLE if isinstance(net, Mixed) else WORDS), set()
    own = net.embed.register_forward_pre_hook(lambda sub, given: seen.add(given[0].dtype))
    handle = net.out.register_forward_pre_hook(lambda sub, given: seen.add(given[0].dtype))
    _, trained = reference(net, x)
    own.remove()
    handle.remove()
    assert seen == {torch.long, torch.float32}
    assert [type(model) for model in trained] == [type(net)] * 2
    assert not torch.equal(trained[0].embed.weight, net.embed.weight)


def test_a_module_that_takes_both_has_another_key_than_where_its_first_layer_decided():
    net = Mixed()
    asked = make_recipe(net, SETTINGS, task="classification", data=records(TABLE))
    assert asked.spec["input"] == "float32"
    told = recipe_digest(asked)
    spec = {key: value for key, value in asked.spec.items() if key != "input"}
    assert recipe_digest(dataclasses.replace(asked, spec=spec)) != told
    plain = make_recipe(nn.Linear(3, 2), SETTINGS, task="classification", data=records(TABLE))
    assert "input" not in plain.spec


def test_work_of_a_text_convolution_is_counted_on_whole_numbers():
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.conv = nn.Embedding(6, 3), nn.Conv1d(3, 2, 2)

        def forward(self, x):
            return self.conv(self.embed(x).transpose(1, 2)).mean(dim=2)

    products, _ = costs(Text(), (5,), torch.long)
    assert products == 3 * 2 * 2 * 4
    _, trained = reference(Text(), WORDS)
    assert len(trained) == 2


@pytest.mark.parametrize(
    ("net", "frame"),
    [
        *((Pair(), NAMED), (OfDict(), NAMED), (OfTuple(), ORDERED), (Pair(), ORDERED)),
        *((OfColumns(), PEOPLE), (OfColumns(flat=False), PEOPLE)),
    ],
    ids=["by name", "dict", "tuple", "in order", "columns", "columns (n, 1)"],
)
def test_several_inputs_go_in_as_the_module_takes_them(net, frame):
    if isinstance(net, OfColumns):
        given = [PEOPLE[name].to_numpy().astype(np.float32) for name in ("age", "income")] + [CAT]
        given = given if net.flat else [column[:, None] for column in given]
        wanted = expected(net, *given)
    else:
        with torch.no_grad():
            logits = Pair.forward(net.eval(), torch.from_numpy(NUM), torch.from_numpy(CAT))
        wanted = phi_from_logits(logits.numpy(), Y)
    np.testing.assert_allclose(signals(net, frame), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("net", "frame"), [(Pair(), NAMED), (OfDict(), NAMED), (OfTuple(), ORDERED), (OfColumns(), PEOPLE)]
)
def test_references_with_several_inputs_are_the_plain_module_and_load_again(net, frame, tmp_path):
    recipe, trained = reference(net, frame)
    assert [type(model) for model in trained] == [type(net)] * 2
    assert not torch.equal(trained[0].out.weight, trained[1].out.weight)
    trainer = trainer_for(recipe)
    assert trainer.save(recipe, trained[0], tmp_path)
    np.testing.assert_array_equal(signals(trainer.load(recipe, tmp_path), frame), signals(trained[0], frame))


def test_a_reference_with_several_inputs_learns_as_a_plain_loop_does():
    net = Pair()
    y = (NUM[:, 0] + (CAT > 2) > 0.5).astype(np.int64)
    data = Records(NAMED, y, IDS)
    recipe = make_recipe(net, SETTINGS | {"epochs": 60}, task="classification", data=data)
    model = next(trainer_for(recipe).train(recipe, data, np.ones((1, N), bool), [3], device="cpu"))
    out = model_outputs(model, data, task="classification", device="cpu")
    assert out.correct.mean() > 0.95


def test_a_table_for_a_module_of_one_matrix_stays_a_matrix():
    frame = PEOPLE.astype(np.float32)
    assert inputs_of(nn.Linear(4, 2), frame).module.weight.shape == (2, 4)
    assert inputs_of(nn.Linear(3, 2), NAMED).tensor.shape == (N, 3)  # also where the names are of several arrays


def test_what_a_module_of_several_inputs_cannot_take_is_said_with_the_remedy():
    with pytest.raises(SignalError, match=r"Pair.forward takes several inputs \(num, cat\).*log_lineage.*\"num\""):
        signals(Pair(), TABLE)
    wrong = pd.DataFrame(flattened({"amounts": NUM, "cat": CAT}))
    with pytest.raises(SignalError, match=r"'amounts' \(n, 2\).*its arguments are: num, cat"):
        signals(Pair(), wrong)
    with pytest.raises(RecipeError, match="its arguments are: num, cat"):
        make_recipe(Pair(), SETTINGS, task="classification", data=records(wrong))


def test_a_traced_module_of_several_inputs_is_asked_and_retrained():
    net = Pair()
    dynamic = torch.export.Dim("n", min=1, max=1_000_000)
    traced = torch.export.export(
        net,
        (torch.from_numpy(NUM), torch.from_numpy(CAT)),
        dynamic_shapes={"num": {0: dynamic}, "cat": {0: dynamic}},
    ).module()
    with torch.no_grad():
        wanted = phi_from_logits(net(torch.from_numpy(NUM), torch.from_numpy(CAT)).numpy(), Y)
    for frame in (NAMED, ORDERED):
        np.testing.assert_allclose(signals(traced, frame), wanted, rtol=1e-4, atol=1e-5)
    assert len(reference(traced, NAMED)[1]) == 2


def test_wrapped_and_scripted_modules_take_several_inputs_too():
    net = Pair()
    wanted = signals(net, NAMED)
    for other in (nn.DataParallel(net), torch.jit.script(net)):
        np.testing.assert_allclose(signals(other, NAMED), wanted, rtol=1e-5)
    assert signals(nn.DataParallel(OfColumns()), PEOPLE).shape == (N,)


def test_an_image_and_amounts_beside_it_go_through_convolutions():
    class Seen(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.out = nn.Conv2d(3, 4, 3), nn.Linear(18, 2)

        def forward(self, image, meta):
            return self.out(torch.cat([self.conv(image).flatten(1), meta], dim=1))

    net, image = Seen(), RNG.random((N, 3, 4, 4)).astype(np.float32)
    frame = pd.DataFrame(flattened({"image": image, "meta": NUM}))
    np.testing.assert_allclose(signals(net, frame), expected(net, image, NUM), rtol=1e-4, atol=1e-5)
    assert len(reference(net, frame)[1]) == 2


def test_columns_of_arrays_are_found_again_whatever_their_shape():
    arrays = {"image": np.arange(24.0).reshape(2, 3, 4), "age": np.array([1, 2])}
    frame = pd.DataFrame(flattened(arrays))
    assert frame.shape == (2, 13)
    assert frame["age"].dtype == np.int64
    found = parts(frame.columns)
    assert found == {"image": (list(range(12)), (3, 4)), "age": ([12], ())}
    np.testing.assert_array_equal(frame.to_numpy()[:, found["image"][0]].reshape(2, 3, 4), arrays["image"])
    assert parts(["a[0]", "a[2]", "a"]) == {"a[0]": ([0], ()), "a[2]": ([1], ()), "a": ([2], ())}
    assert expanded(["age", "none"], list(frame.columns)) == ["age", "none"]
