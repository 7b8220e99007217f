"""Every model of an audit is read as its target is."""

from __future__ import annotations

import pickle

import numpy as np
import torch
from torch import nn

from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.auditing.questions import questions
from mlflow_privacy.design import Design
from mlflow_privacy.fingerprint import data_digest
from mlflow_privacy.signals import outputs_reading
from mlflow_privacy.types import AuditedModel, AuditTarget, Recipe, Records


class Squared(nn.Module):
    """Its last operation does not tell what it gives."""

    def __init__(self, factor):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x):
        return (x[:, 0] * self.factor) ** 2


def _records(values, first=0):
    x = np.array(values, np.float32)[:, None]
    n = len(x)
    return Records(x, np.arange(n) % 2, np.arange(first, first + n).astype(str))


def _ask(target_net, population, *, loss=None, **options):
    pool = _records([0.1, 0.2, 0.3, 0.4])
    recipe = None if loss is None else Recipe("torch", {"settings": {"loss": loss}})
    target = AuditTarget(
        model=AuditedModel("models:/m/1", "m", "1", None, None, "pytorch", target_net),
        pool=pool,
        membership=np.array([True, False, True, False]),
        population=population,
        task="classification",
        recipe=recipe,
    )
    design = Design(seed=0, n=4, pool_digest=data_digest(pool))
    return questions(target, design, AuditOptions(device="cpu", **options))


def test_a_population_beyond_one_makes_all_of_the_target_and_of_its_references_logits():
    ask = _ask(Squared(1.0), _records([0.5, 3.0], 9))
    for net in (Squared(1.0), Squared(0.1)):  # all outputs of the second lie in [0, 1]
        pool, population = ask(net)
        for outputs, records in zip((pool, population), ask.data):
            logit = (records.x[:, 0] * net.factor.item()) ** 2
            np.testing.assert_allclose(outputs.signal, np.where(records.y == 1, logit, -logit), rtol=1e-5)


def test_the_loss_of_the_recipe_decides_where_outputs_would_say_otherwise():
    inside = _records([0.5, 0.6], 9)
    assert _ask(Squared(1.0), inside).reading == "probabilities"
    assert _ask(Squared(1.0), inside, loss="bce_with_logits").reading == "logits"


def test_answers_read_in_two_ways_are_kept_under_two_keys():
    inside = _records([0.5, 0.6], 9)
    assert not set(_ask(Squared(1.0), inside).keys) & set(_ask(nn.Linear(1, 1), inside).keys)


def test_what_the_caller_says_decides_for_every_model():
    inside = _records([0.5, 0.6], 9)
    ask = _ask(Squared(1.0), inside, output="logits")
    assert ask.reading == "logits"
    assert not set(ask.keys) & set(_ask(Squared(1.0), inside).keys)

    def predict(x):
        return x[:, 0].astype(np.float64)  # in [0, 1]

    expected = np.where(ask.pool.y == 1, ask.pool.x[:, 0], -ask.pool.x[:, 0])
    np.testing.assert_allclose(ask(predict)[0].signal, expected, rtol=1e-5)


def test_named_outputs_and_parameters_go_to_workers_and_into_the_keys():
    keys = [set(_ask(Squared(1.0), _records([0.5], 9), **said).keys) for said in ({}, *_SAID)]
    assert not set.intersection(*keys)
    assert len(set.union(*keys)) == sum(map(len, keys))
    for said in _SAID:
        sent = pickle.loads(pickle.dumps(_ask(Squared(1.0), None, **said))).options
        assert (sent.output, dict(sent.params)) == (said.get("output"), said.get("params", {}))


_SAID = ({"output": ("b",)}, {"output": ("a", "b")}, {"params": {"kind": 1}}, {"params": {"kind": 2}})


def test_a_compiled_loss_of_logits_is_told():
    class Loss:
        from_logits = True

    class Model:
        loss = Loss()

        def predict(self, x):
            return x[:, 0]

    assert outputs_reading(Model(), [_records([0.5, 0.6])]) == "logits"
    Loss.from_logits = False
    assert outputs_reading(Model(), [_records([0.5, 0.6])]) is None
