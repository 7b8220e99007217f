"""A model that answers at random is told of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.auditing.pipeline import audit
from mlflow_privacy.types import AuditedModel, AuditTarget, Records


class Net(nn.Module):
    def __init__(self, outputs, always):
        super().__init__()
        self.first, self.last, self.always = nn.Linear(6, 8), nn.Linear(8, outputs), always

    def forward(self, x):
        hidden = nn.functional.dropout(self.first(x), 0.3, training=self.always or self.training)
        return self.last(hidden)


def _warnings(task, always):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 80) if task == "classification" else rng.normal(size=80)
    pool = Records(rng.normal(size=(80, 6)).astype(np.float32), y, np.arange(80).astype(str))
    model = AuditedModel("memory", None, None, None, None, "pytorch", Net(2 if task == "classification" else 1, always))
    target = AuditTarget(model, pool, np.arange(80) % 2 == 0, task)
    options = AuditOptions(num_ref_models=0, blind_baseline=False, progress=False, device="cpu")
    return [text for text in audit(target, options).warnings if "answers at random" in text]


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_dropout_that_ignores_eval_is_warned_of_and_one_that_does_not_is_not(task):
    (warning,) = _warnings(task, always=True)
    assert "asked twice about the same 16 records" in warning
    assert "F.dropout(x, p, training=self.training)" in warning
    assert _warnings(task, always=False) == []
