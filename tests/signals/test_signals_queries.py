"""Augmented queries: which, how they look, and how their signals are averaged."""

import functools
import logging

import numpy as np
import pytest

from mlflow_privacy.errors import ConfigError
from mlflow_privacy.signals import model_outputs
from mlflow_privacy.signals.queries import Query, augmented_outputs, effective_queries, image_queries, transform
from mlflow_privacy.types import ModelOutputs, Records

torch = pytest.importorskip("torch")
ALL = {"crop": 2, "crop_mode": "zeros", "flip": 0.5, "cutout": 4}


def images(n=6, shape=(3, 5, 7), dtype=np.uint8, seed=0):
    x = np.random.default_rng(seed).integers(0, 256, (n, *shape)).astype(dtype)
    return Records(x, np.arange(n) % 3, np.arange(n).astype(str))


def module(shape=(3, 5, 7), classes=3, seed=0):
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(int(np.prod(shape)), classes))
    with torch.no_grad():
        net[1].weight /= 255
    return net


def asks(net, batch_size=1024):
    return functools.partial(
        model_outputs, net, task="classification", classes=np.arange(3), device="cpu", batch_size=batch_size
    )


def naive(x, query, mode):
    """Pixel by pixel."""
    _, _, height, width = x.shape

    def source(place, size):
        if 0 <= place < size:
            return place
        if mode == "zeros":
            return None
        return -place if place < 0 else 2 * (size - 1) - place

    out = np.zeros_like(x)
    for r in range(height):
        for c in range(width):
            column = width - 1 - c if query.mirror else c
            i, j = source(r - query.down, height), source(column - query.right, width)
            if i is not None and j is not None:
                out[:, :, r, c] = x[:, :, i, j]
    return out


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_queries_show_what_a_pixel_by_pixel_copy_shows(mode, dtype):
    x = images(2, dtype=dtype).x
    before = x.copy()
    for query in image_queries(ALL):
        out = transform(x, query, mode=mode)
        np.testing.assert_array_equal(out, naive(x, query, mode))
        assert out.dtype == dtype
        assert out.flags.c_contiguous
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_every_query_is_an_image_that_training_shows(mode):
    from mlflow_privacy.trainers.torch.augment import apply

    x = images(1).x
    options = {**ALL, "crop_mode": mode}
    for down, right, mirror in image_queries(ALL):
        drawn = {"crop": torch.tensor([[2 - down, 2 - right]]), "flip": torch.tensor([mirror])}
        seen = apply(torch.from_numpy(x), options, drawn).numpy()
        np.testing.assert_array_equal(transform(x, Query(down, right, mirror), mode=mode), seen)


def test_queries_are_the_record_its_mirror_image_then_shifts_all_different():
    queries = image_queries(ALL)
    assert queries[:2] == [Query(0, 0, False), Query(0, 0, True)]
    assert len(set(queries)) == 18
    assert {abs(q.down) for q in queries[2:]} | {abs(q.right) for q in queries[2:]} == {0, 2}
    assert image_queries({"flip": 0.0, "crop": 2}) == [q for q in queries if not q.mirror]
    assert image_queries({"flip": 0.5}) == queries[:2]
    assert image_queries({"cutout": 8}) == image_queries({}) == queries[:1]


@pytest.mark.parametrize("count", [2, 5, 18])
def test_the_signal_is_the_mean_over_queries_and_the_rest_is_of_the_record(count):
    net, records = module(), images()
    out = augmented_outputs(asks(net), records, count, augmentation=ALL)
    signals = []
    for query in image_queries(ALL)[:count]:
        x = naive(records.x, query, "zeros")
        signals.append(asks(net)(Records(x, records.y, records.row_ids)).signal.astype(np.float64))
    np.testing.assert_allclose(out.signal, np.mean(signals, axis=0), rtol=1e-6)
    plain = asks(net)(records)
    assert out.signal.dtype == np.float32
    assert not np.array_equal(out.signal, plain.signal)
    np.testing.assert_array_equal(out.loss, plain.loss)
    np.testing.assert_array_equal(out.correct, plain.correct)
    assert out.link == plain.link


def test_one_query_is_the_plain_outputs_and_asks_once():
    calls = []

    def ask(records):
        calls.append(records)
        return asks(module())(records)

    records = images()
    out = augmented_outputs(ask, records, 1, augmentation=ALL)
    assert len(calls) == 1
    assert calls[0] is records
    np.testing.assert_array_equal(out.signal, asks(module())(records).signal)


def test_batch_size_and_order_of_records_do_not_change_signals():
    records = images(11)
    whole = augmented_outputs(asks(module()), records, 6, augmentation=ALL).signal
    parts = augmented_outputs(asks(module(), batch_size=3), records, 6, augmentation=ALL).signal
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-6)
    order = np.random.default_rng(1).permutation(11)
    shuffled = augmented_outputs(asks(module()), records.take(order), 6, augmentation=ALL).signal
    np.testing.assert_allclose(shuffled, whole[order], rtol=1e-5, atol=1e-6)


def test_a_model_that_does_not_see_flips_has_the_same_signal():
    class Mirrored(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = module()

        def forward(self, x):
            return self.net(x) + self.net(x.flip(-1))

    records = images()
    out = augmented_outputs(asks(Mirrored()), records, 2, augmentation={"flip": 0.5})
    np.testing.assert_allclose(out.signal, asks(Mirrored())(records).signal, rtol=1e-5, atol=1e-6)


def test_averaging_over_queries_shrinks_noise_that_augmentation_washes_out():
    # A signal plus noise that is independent between queries: the mean of q has a q-th of its variance.
    def noisy(records):
        seeds = records.x.reshape(len(records), -1).astype(np.int64).sum(axis=1) + records.x[:, 0, 0, 0]
        noise = np.array([np.random.default_rng([int(s), int(x[0, 0, -1])]).normal() for s, x in zip(seeds, records.x)])
        return ModelOutputs(noise.astype(np.float32), None, np.zeros(len(records), np.float32), "logit")

    records = images(2000, shape=(1, 6, 6))
    one = augmented_outputs(noisy, records, 1, augmentation=ALL).signal
    nine = augmented_outputs(noisy, records, 9, augmentation=ALL).signal
    assert abs(one.std() - 1) < 0.08
    assert nine.std() < 0.45


@pytest.mark.parametrize(
    ("records", "asked", "augmentation", "count", "reason"),
    [
        (Records(np.zeros((2, 9)), np.zeros(2), np.array(["a", "b"])), 8, ALL, 1, "no images"),
        (Records(np.array([["x"], ["y"]]), np.zeros(2), np.array(["a", "b"])), 2, ALL, 1, "no images"),
        (images(), 8, {}, 1, "neither flip nor crop"),
        (images(), 8, {"flip": 0.5}, 2, "trained with flip"),
        (images(), 30, {"crop": 4}, 9, "trained with crop"),
        (images(), 18, ALL, 18, ""),
        (images(), 4, ALL, 4, ""),
        (images(), 1, {}, 1, ""),
    ],
)
def test_no_more_queries_than_training_makes_meaningful(records, asked, augmentation, count, reason, caplog):
    with caplog.at_level(logging.INFO):
        assert effective_queries(records, asked, augmentation) == count
    assert (reason in caplog.text) if reason else not caplog.records


def test_of_a_default_that_does_not_apply_nothing_is_said(caplog):
    with caplog.at_level(logging.INFO):
        assert effective_queries(images(), 2, {}, asked_for=False) == 1
    assert not caplog.records


def test_a_table_gets_its_plain_outputs():
    table = Records(np.arange(12.0, dtype=np.float32).reshape(4, 3), np.arange(4) % 3, np.arange(4).astype(str))
    net = module((3,))
    out = augmented_outputs(asks(net), table, 8, augmentation=ALL)
    np.testing.assert_array_equal(out.signal, asks(net)(table).signal)


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "2"])
def test_a_wrong_number_of_queries_is_named(count):
    with pytest.raises(ConfigError, match="num_queries must be a positive whole number"):
        effective_queries(images(), count, ALL)
