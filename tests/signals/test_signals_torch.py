"""Signals of PyTorch modules."""

from __future__ import annotations

import types

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from mlflow_privacy.errors import ConfigError, SignalError
from mlflow_privacy.signals import model_outputs, outputs_reading
from mlflow_privacy.signals.classification import phi_from_logits, phi_from_probabilities
from mlflow_privacy.trainers.torch.last_operation import Watched
from mlflow_privacy.types import Records


class Fixed(nn.Module):
    """Gives its input back, through whatever is asked for."""

    def __init__(self, read=lambda x: x):
        super().__init__()
        self.read = read

    def forward(self, x):
        return self.read(x)


LOGITS = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32) * 4
Y = np.arange(40) % 3
RECORDS = Records(LOGITS, Y, np.arange(40).astype(str))
PHI = phi_from_logits(LOGITS, Y)


def outputs(module, records=RECORDS, task="classification", **options):
    return model_outputs(module, records, task=task, device="cpu", **options)


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x,
        lambda x: torch.log_softmax(x, 1),
        lambda x: (x, "hidden"),
        lambda x: {"logits": x, "loss": None},
        lambda x: types.SimpleNamespace(logits=x),
        lambda x: {"out": x},
        lambda x: torch.softmax(x.double(), 1),
    ],
    ids=["logits", "log", "tuple", "dict", "attribute", "only", "softmax"],
)
def test_every_form_of_output_gives_the_same_phi(read):
    out = outputs(Fixed(read))
    np.testing.assert_allclose(out.signal, PHI, rtol=1e-5, atol=1e-5)
    assert np.array_equal(out.correct, LOGITS.argmax(1) == Y)
    np.testing.assert_allclose(out.loss, np.logaddexp(0, -PHI), rtol=1e-5, atol=1e-6)
    assert out.link == "logit"
    assert out.signal.dtype == np.float32


def test_loss_is_the_cross_entropy_of_torch():
    expected = nn.functional.cross_entropy(torch.from_numpy(LOGITS), torch.from_numpy(Y), reduction="none")
    np.testing.assert_allclose(outputs(Fixed()).loss, expected.numpy(), rtol=1e-4, atol=1e-6)


def test_extreme_logits_stay_finite():
    x = np.array([[200.0, -200.0, -200.0], [-200.0, 200.0, 200.0]], np.float32)
    out = outputs(Fixed(), Records(x, np.array([0, 0]), np.array(["a", "b"])), classes=np.arange(3))
    np.testing.assert_allclose(out.signal, [400 - np.log(2), -400 - np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(out.loss, [0, 400 + np.log(2)], atol=1e-6)


def test_half_precision_outputs_are_taken_in_full():
    out = outputs(Fixed(lambda x: x.half()))
    np.testing.assert_allclose(out.signal, phi_from_logits(LOGITS.astype(np.float16), Y), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", ["(n,)", "(n, 1)"])
def test_single_logit_is_the_second_class(shape):
    y = np.arange(40) % 2
    records = Records(LOGITS, y, RECORDS.row_ids)
    cut = (lambda x: x[:, 0]) if shape == "(n,)" else (lambda x: x[:, :1])
    expected = np.where(y == 1, LOGITS[:, 0], -LOGITS[:, 0])
    np.testing.assert_allclose(outputs(Fixed(cut), records).signal, expected, rtol=1e-6)
    sigmoid = outputs(Fixed(lambda x: torch.sigmoid(cut(x))), records)
    np.testing.assert_allclose(sigmoid.signal, expected, rtol=1e-3, atol=1e-3)
    assert np.array_equal(sigmoid.correct, (LOGITS[:, 0] > 0) == y)


def test_batch_size_does_not_matter_even_for_what_looks_like_probabilities_in_one_batch():
    x = LOGITS.copy()
    x[:4] = [0.2, 0.3, 0.5]  # the first batch of four is a distribution, the whole is not
    records = Records(x, Y, RECORDS.row_ids)
    expected = outputs(Fixed(), records)
    np.testing.assert_allclose(expected.signal, phi_from_logits(x, Y), rtol=1e-5, atol=1e-5)
    for size in (1, 3, 4, 40, 1000):
        out = outputs(Fixed(), records, batch_size=size)
        np.testing.assert_allclose(out.signal, expected.signal, rtol=1e-6)
        assert np.array_equal(out.correct, expected.correct)


def test_modes_and_device_are_put_back_and_evaluation_mode_is_used():
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    module.train()
    module[1].eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    a, b = outputs(module), outputs(module, batch_size=7)
    np.testing.assert_allclose(a.signal, b.signal, rtol=1e-4, atol=1e-5)
    assert [m.training for m in module] == [True, False, True]
    assert module.training
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


class Hungry(Fixed):
    """Runs out of memory above a batch size."""

    def __init__(self, most):
        super().__init__()
        self.most, self.sizes = most, []

    def forward(self, x):
        self.sizes.append(len(x))
        if len(x) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return x


def test_batch_is_halved_on_out_of_memory(caplog):
    module = Hungry(6)
    out = outputs(module, batch_size=32)
    np.testing.assert_allclose(out.signal, PHI, rtol=1e-5, atol=1e-5)
    assert module.sizes == [32, 16, 8, 4, *[4] * 9]
    assert "batches of 4 records" in caplog.text


def test_no_memory_for_one_record_is_an_error():
    with pytest.raises(SignalError, match=r"no memory for a single record\. Use device='cpu'"):
        outputs(Hungry(0))


def test_nan_outputs_are_counted():
    x = LOGITS.copy()
    x[[3, 9]] = np.nan
    with pytest.raises(SignalError, match="NaN or infinite outputs for 2 of 40 records, the first at position 3"):
        outputs(Fixed(), Records(x, Y, RECORDS.row_ids))


@pytest.mark.parametrize(
    ("module", "match"),
    [
        (Fixed(lambda x: x[:, None]), r"outputs of shape \(40, 1, 3\) for 40 records"),
        (Fixed(lambda x: x[:5]), r"output of shape \(5, 3\) for 40 records"),
        (Fixed(lambda x: "text"), "returned a str without a tensor of logits"),
        (Fixed(lambda x: x[:, :2]), r"3 classes \(0, 1, 2\) but the model has 2 outputs"),
        (nn.Linear(5, 3), r"does not take records of shape \(3,\) and type torch.float32"),
    ],
)
def test_outputs_that_do_not_fit_are_named(module, match):
    with pytest.raises(SignalError, match=match):
        outputs(module)


def test_class_names_take_their_place_among_the_pools_classes():
    names = np.array(["dog", "ant", "cow"])
    order = np.argsort(names)
    records = Records(LOGITS, names[order][Y], RECORDS.row_ids)
    np.testing.assert_allclose(outputs(Fixed(), records).signal, PHI, rtol=1e-5, atol=1e-5)
    part = records.take(np.flatnonzero(Y == 2))  # one class only: the pool's classes decide
    np.testing.assert_allclose(
        outputs(Fixed(), part, classes=np.unique(records.y)).signal, PHI[Y == 2], rtol=1e-5, atol=1e-5
    )
    odd = Records(LOGITS[:2], np.array(["ant", "yak"]), np.array(["0", "1"]))
    with pytest.raises(SignalError, match="1 records have labels that are none of the pool's classes: 'yak'"):
        outputs(Fixed(), odd, classes=np.unique(records.y))


def test_whole_numbers_index_the_outputs_even_where_classes_are_missing():
    y = np.where(Y == 1, 2, Y)
    records = Records(LOGITS, y, RECORDS.row_ids)
    np.testing.assert_allclose(outputs(Fixed(), records).signal, phi_from_logits(LOGITS, y), rtol=1e-5, atol=1e-5)
    shifted = Records(LOGITS, Y + 1, RECORDS.row_ids)
    np.testing.assert_allclose(outputs(Fixed(), shifted).signal, PHI, rtol=1e-5, atol=1e-5)


def test_features_take_the_type_the_module_expects():
    seen = []

    class Spy(nn.Linear):
        def forward(self, x):
            seen.append(x.dtype)
            return super().forward(x)

    rng = np.random.default_rng(0)
    floats = Records(LOGITS.astype(np.float64), Y, RECORDS.row_ids)
    bytes_ = Records(rng.integers(0, 256, (40, 3), dtype=np.uint8), Y, RECORDS.row_ids)
    frame = Records(pd.DataFrame(LOGITS > 0, columns=list("abc")).astype({"a": "Int64"}), Y, RECORDS.row_ids)
    for records in (floats, bytes_, frame):
        outputs(Spy(3, 3), records)
        assert set(seen) == {torch.float32}  # also where it was asked first whether it takes that
        seen.clear()
    outputs(Spy(3, 3).double(), floats)
    assert set(seen) == {torch.float64}
    tokens = Records(rng.integers(0, 9, (40, 5)), Y, RECORDS.row_ids)
    words = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(20, 3))
    assert len(outputs(words, tokens).signal) == 40
    with pytest.raises(SignalError, match="not numeric: city"):
        outputs(Spy(3, 3), Records(pd.DataFrame({"city": ["x"] * 40}), Y, RECORDS.row_ids))


def test_regression_modules():
    y = LOGITS[:, 0] + 1
    records = Records(LOGITS, y, RECORDS.row_ids)
    for cut in (lambda x: x[:, 0], lambda x: x[:, :1]):
        out = outputs(Fixed(cut), records, task="regression", batch_size=7)
        np.testing.assert_allclose(out.loss, 1.0, rtol=1e-4)
        np.testing.assert_allclose(out.signal, -0.5 * np.log(2 * np.pi) - 0.5, rtol=1e-4)
    with pytest.raises(SignalError, match=r"shape \(40, 3\) for targets of shape \(40,\)"):
        outputs(Fixed(), records, task="regression")


def test_a_softmax_inside_keeps_small_probabilities():
    x = np.array([[30.0, 0.0, 0.0]], np.float32)
    records = Records(x, np.array([0]), np.array(["0"]))
    out = outputs(Fixed(lambda v: torch.softmax(v, 1)), records, classes=np.arange(3))
    np.testing.assert_allclose(out.signal, 30 - np.log(2), rtol=1e-5)
    p = torch.softmax(torch.from_numpy(x), 1).numpy()
    np.testing.assert_allclose(out.signal, phi_from_probabilities(p, np.array([0]), floor=1e-30), rtol=1e-6)


def test_device_that_does_not_exist_is_named():
    with pytest.raises(ConfigError, match=r'device must be "auto".*got \'gpu\''):
        model_outputs(Fixed(), RECORDS, task="classification", device="gpu")


@pytest.mark.gpu
def test_signals_on_the_gpu_equal_those_on_the_cpu():
    module = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 3))
    a, b = (model_outputs(module, RECORDS, task="classification", device=d, batch_size=7) for d in ("cpu", "cuda"))
    np.testing.assert_allclose(a.signal, b.signal, rtol=1e-4, atol=1e-4)
    assert next(module.parameters()).device.type == "cpu"


def _weak_nets():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4)).astype(np.float32) * 0.1
    records = Records(x, rng.integers(0, 2, 60), np.arange(60).astype(str))
    nets = []
    for seed in range(12):
        torch.manual_seed(seed)
        net = nn.Linear(4, 1)
        with torch.no_grad():
            net.bias.uniform_(-0.2, 0.8)
        nets.append(net)
    return nets, records


def test_twelve_weak_linear_nets_are_all_read_as_logits_on_pool_and_population():
    nets, records = _weak_nets()
    within = 0
    for net in nets:
        for part in (records, records.take(np.arange(7))):
            logit = net(torch.from_numpy(part.x)).detach().numpy()[:, 0]
            within += bool(((logit >= 0) & (logit <= 1)).all())
            signal = outputs(net, part, classes=np.arange(2)).signal
            np.testing.assert_allclose(signal, np.where(part.y == 1, logit, -logit), rtol=1e-5, atol=1e-6)
    assert within > 3  # these were taken for probabilities


def test_one_changed_record_does_not_move_the_others():
    nets, records = _weak_nets()
    x = records.x.copy()
    x[0] = 100.0
    changed = Records(x, records.y, records.row_ids)
    for net in (*nets, *(nn.Sequential(net, nn.Sigmoid()) for net in nets)):
        assert np.array_equal(outputs(net, records).signal[1:], outputs(net, changed).signal[1:])


class Functional(nn.Module):
    def __init__(self, read):
        super().__init__()
        self.layer, self.read = nn.Linear(4, 1), read

    def forward(self, x):
        return self.read(self.layer(x))


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (lambda z: z, "logits"),
        (lambda z: (z / 2.0 + 0.3)[:, 0], "logits"),
        (lambda z: {"logits": z.squeeze(-1)}, "logits"),
        (lambda z: torch.sigmoid(z), "probabilities"),
        (lambda z: z.sigmoid_().reshape(-1).clamp(1e-6, 1 - 1e-6), "probabilities"),
        (lambda z: torch.softmax(torch.cat([z, -z], 1), 1)[:, 1], "probabilities"),
        (lambda z: torch.cat([z, -z], 1), "logits"),
        (lambda z: torch.softmax(torch.cat([z, -z], 1), 1), "probabilities"),
        (lambda z: nn.functional.log_softmax(torch.cat([z, -z], 1), 1), "logits"),
    ],
)
def test_the_last_operation_decides_how_outputs_are_read(read, expected):
    _, records = _weak_nets()
    assert outputs_reading(Functional(read), [records], device="cpu") == expected


def test_an_exported_graph_is_read_as_its_module():
    net = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid())
    for module, expected in ((net, "probabilities"), (net[0], "logits")):
        graph = torch.export.export(module, (torch.zeros(3, 4),), dynamic_shapes=({0: torch.export.Dim("n")},))
        watched = Watched(graph.module())
        watched(torch.zeros(5, 4))
        assert watched.reading == expected


def test_where_the_operation_does_not_tell_the_loss_does_and_else_all_outputs_do():
    _, records = _weak_nets()
    odd = Functional(lambda z: torch.tanh(z) ** 2)  # in [0, 1]
    read = lambda data, loss: outputs_reading(odd, data, loss=loss, device="cpu")
    assert read([records], "bce_with_logits") == read([records], "torch.nn.BCEWithLogitsLoss") == "logits"
    assert read([records], "bce") == read([records], None) == "probabilities"
    wide = Fixed(lambda x: x[:, 0])
    inside = Records(np.full((4, 4), 0.5, np.float32), np.arange(4) % 2, np.arange(4).astype(str))
    assert outputs_reading(wide, [inside], device="cpu") == "probabilities"
    assert outputs_reading(wide, [inside, records], device="cpu") == "logits"  # the population counts, too
    signal = outputs(wide, inside, reading="logits").signal
    np.testing.assert_allclose(signal, np.where(inside.y == 1, 0.5, -0.5))


def test_a_masked_class_leaves_every_phi_finite():
    x = LOGITS.copy()
    x[np.arange(40), (Y + 1) % 3] = -np.inf
    x[0, [1, 2]] = -np.inf  # nothing is left beside the label, which is class 0
    records = Records(x, Y, RECORDS.row_ids)
    other = x[np.arange(40), (Y + 2) % 3]
    for read in (lambda v: v, lambda v: torch.log_softmax(v, 1)):
        signal = outputs(Fixed(read), records).signal
        np.testing.assert_allclose(signal[1:], (x[np.arange(40), Y] - other)[1:], rtol=1e-4, atol=1e-5)
        assert signal[0] == pytest.approx(np.log(1e30))
    np.testing.assert_allclose(
        outputs(Fixed(lambda v: torch.softmax(v, 1)), records).signal, outputs(Fixed(), records).signal, atol=1e-3
    )
    np.testing.assert_allclose(phi_from_logits(x, Y), outputs(Fixed(), records).signal, rtol=1e-5, atol=1e-5)


def test_a_masked_class_that_is_the_label_is_said():
    x = LOGITS.copy()
    x[[2, 7], Y[[2, 7]]] = -np.inf
    with pytest.raises(SignalError, match=r"label itself the logit -∞ .* for 2 of 40 records, the first at position 2"):
        outputs(Fixed(), Records(x, Y, RECORDS.row_ids))
    x[3, :] = np.inf
    with pytest.raises(SignalError):
        outputs(Fixed(), Records(x, Y, RECORDS.row_ids))
