"""Groups, threads, memory that runs out, and which way is chosen."""

import itertools
import logging
import threading

import numpy as np
import pytest
import torch
from torch import nn

from mlflow_privacy.errors import RecipeError
from mlflow_privacy.trainers import make_recipe, trainer_for
from mlflow_privacy.trainers.machine import torch_threads
from mlflow_privacy.trainers.settings import parse_settings
from mlflow_privacy.trainers.stacked import ensemble
from mlflow_privacy.trainers.stacked import way as ways
from mlflow_privacy.trainers.stacked.groups import Halving, blocks
from mlflow_privacy.trainers.torch import trainer as trainer_module
from mlflow_privacy.trainers.torch.tensors import compact
from mlflow_privacy.types import Records
from mlflow_privacy.zoo.models import cnn, lenet, mlp
from mlflow_privacy.zoo.wide_resnet import WideResNet

SGD = {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9, "epochs": 2, "batch_size": 16}
MLP = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


NORMED = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


def train(n_models, module=MLP, **kwargs):
    rng = np.random.default_rng(0)
    data = Records(rng.normal(size=(60, 5)).astype(np.float32), rng.integers(3, size=60), np.arange(60).astype(str))
    recipe = make_recipe(module, SGD, task="classification", data=data)
    rows = np.stack([rng.permutation(60) < 30 for _ in range(n_models)])
    return trainer_for(recipe).train(recipe, data, rows, range(n_models), device="cpu", **kwargs)


def same(a, b, rtol=1e-5, atol=1e-6):
    for p, q in zip(a, b, strict=True):
        for left, right in zip(p.state_dict().values(), q.state_dict().values(), strict=True):
            torch.testing.assert_close(left, right, rtol=rtol, atol=atol)


def choose(monkeypatch, *way):
    monkeypatch.setattr(ensemble, "choose", lambda *args, **kwargs: ensemble.Way(*way, "test"))


@pytest.fixture
def tight_memory(monkeypatch):
    """Stacks of more than two models fail, as the allocators of GPUs or CPUs say it; yields the sizes tried."""
    tried, fit = [], ensemble.fit_together
    errors = {
        "gpu": torch.cuda.OutOfMemoryError("CUDA out of memory."),
        "cpu": RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."
        ),
    }

    def limit(most, kind):
        def tight(models, *args, **kwargs):
            tried.append(len(models))
            if len(models) > most:
                raise errors[kind]
            return fit(models, *args, **kwargs)

        monkeypatch.setattr(ensemble, "fit_together", tight)
        return tried

    return limit


@pytest.mark.parametrize("kind", ["gpu", "cpu"])
def test_a_stack_that_does_not_fit_is_trained_in_halves(kind, tight_memory, monkeypatch, caplog):
    alone = list(train(12))
    choose(monkeypatch, "stacked", 7, 1)
    tried = tight_memory(2, kind)
    with caplog.at_level(logging.WARNING):
        same(train(12), alone)
    # Groups of seven and five; single models left over need no stack, and what did not fit is not tried again.
    assert tried == [7, 4, 2, 2, 2, 2, 2]
    assert "Out of memory with 7 models at once" in caplog.text


def test_models_that_were_handed_on_are_not_lost_or_trained_again(tight_memory, monkeypatch):
    choose(monkeypatch, "stacked", 2, 1)
    tried = tight_memory(2, "gpu")
    models = train(8)
    first = [next(models) for _ in range(4)]  # one block of two groups
    assert tried == [2, 2]
    tight_memory(1, "gpu")
    rest = list(models)
    assert len(rest) == 4
    monkeypatch.undo()
    same(first + rest, list(train(8)))


def test_one_model_that_does_not_fit_is_an_error_that_names_the_remedy(monkeypatch):
    choose(monkeypatch, "one by one", 1, 1)

    def full(*args, **kwargs):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")

    monkeypatch.setattr(trainer_module, "fit", full)
    with pytest.raises(RecipeError, match=r"(?s)one reference model by itself.*1 GiB.*device='cpu'"):
        list(train(2))


def test_other_errors_travel_unchanged():
    halving, calls = Halving(), []

    def broken(group):
        calls.append(len(group))
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        halving([0, 1, 2, 3], broken)
    assert calls == [4]
    assert halving.most is None


@pytest.mark.parametrize("module", [MLP, NORMED])
def test_threads_train_the_same_models_and_put_the_number_of_threads_back(module, monkeypatch):
    before, state = torch.get_num_threads(), torch.random.get_rng_state()
    alone, seen, fit = list(train(5, module)), set(), ensemble.fit_together

    def spy(*args, **kwargs):
        seen.add((threading.current_thread().name, torch.get_num_threads()))
        return fit(*args, **kwargs)

    monkeypatch.setattr(ensemble, "fit_together", spy)
    choose(monkeypatch, "stacked", 3, 2)
    same(train(5, module), alone)
    assert {name.split("_")[0] for name, _ in seen} == {"stack"}
    assert {threads for _, threads in seen} == {1}
    assert torch.get_num_threads() == before
    assert torch.equal(torch.random.get_rng_state(), state)


def pictures(n_models, module, **settings):
    rng = np.random.default_rng(0)
    x = rng.integers(256, size=(80, 3, 12, 12)).astype(np.uint8)
    data = Records(x, rng.integers(4, size=80), np.arange(80).astype(str))
    recipe = make_recipe(
        module, {**SGD, "augmentation": ["crop", "flip"], **settings}, task="classification", data=data
    )
    rows = np.stack([rng.permutation(80) < 40 for _ in range(n_models)])
    return trainer_for(recipe).train(recipe, data, rows, range(n_models), device="cpu")


CONV = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(150, 4))


def test_conv_nets_in_threads_are_those_of_one_after_another(monkeypatch):
    monkeypatch.setattr(ways, "WORK_FOR_THREADS", 1)
    seen, fit = set(), trainer_module.fit

    def spy(*args, **kwargs):
        seen.add((threading.current_thread().name.split("_")[0], torch.get_num_threads()))
        return fit(*args, **kwargs)

    monkeypatch.setattr(trainer_module, "fit", spy)
    with torch_threads(1):
        alone = list(pictures(5, CONV))
    assert seen == {("MainThread", 1)}
    seen.clear()
    state = torch.random.get_rng_state()
    with torch_threads(4):
        same(pictures(5, CONV), alone, 1e-4, 1e-4)  # sums of another number of threads; seeds make 1e-2
        assert torch.get_num_threads() == 4
    # Four at a time with a thread each; the fifth, alone in its block, may use all of them.
    assert seen == {("stack", 1), ("MainThread", 4)}
    seen.clear()
    with torch_threads(4):
        same(pictures(2, CONV), alone[:2], 1e-4, 1e-4)
    assert seen == {("stack", 2)}
    assert torch.equal(torch.random.get_rng_state(), state)


def test_conv_nets_stay_alone_where_threads_would_share_what_is_not_theirs(monkeypatch):
    shape = {"record_shape": (3, 32, 32), "threads": 4}
    large = {**SGD, "batch_size": 64}
    net = cnn((3, 32, 32), 10)
    assert way(net, settings=large, **shape).workers == 4
    assert way(net, settings=large, n_models=3, **shape).workers == 3
    assert "in each of 4 threads" in str(way(net, settings=large, **shape))
    drawing = nn.Sequential(net, nn.Dropout(0.5))
    for other in (
        way(drawing, settings=large, **shape),  # masks come from the global generator
        way(net, settings=large, threads=4),  # how large its feature maps are is not known
        way(net, settings={**SGD, "batch_size": 1}, **shape),  # Python takes most of a step
        way(net, settings=large, n_models=1, **shape),
    ):
        assert (other.kind, other.workers) == ("one by one", 1)
    assert way(nn.Sequential(net, nn.Dropout(0.0)), settings=large, **shape).workers == 4
    maps = ways.costs(net, (3, 32, 32))[1]
    monkeypatch.setattr(ways, "free_memory", lambda: 2 * 3 * 3 * 64 * maps + 1)
    assert way(net, settings=large, **shape).workers == 3  # half of the memory, for three copies of each map
    monkeypatch.setattr(ways, "free_memory", lambda: 1)
    assert way(net, settings=large, **shape).workers == 1


def test_progress_of_threads_rises_to_the_whole(monkeypatch):
    choose(monkeypatch, "stacked", 2, 2)
    calls = []
    list(train(4, progress=lambda *call: calls.append(call)))
    assert calls == sorted(calls)
    assert calls[-1] == (4 * 2 * 2, 4 * 2 * 2)


def test_blocks_hold_every_model_once_in_groups_of_one_length():
    lengths = [10, 11] * 9 + [10]
    for together in (1, 2, 5, 16):
        for workers in (1, 2, 3):
            made = list(blocks(lengths, together, workers))
            groups = [group for block in made for group in block]
            assert sorted(i for group in groups for i in group) == list(range(19))
            assert all(len(group) <= together and len({lengths[i] for i in group}) == 1 for group in groups)
            assert all(max(map(max, a)) < min(map(min, b)) for a, b in itertools.pairwise(made))


def way(module, device="cpu", settings=SGD, **kwargs):
    return ensemble.choose(module, parse_settings(settings, task="classification"), torch.device(device), **kwargs)


def test_the_way_depends_on_network_and_hardware():
    large = {**SGD, "batch_size": 256}
    dense = mlp((600,), 100)
    assert way(dense, settings=large, n_models=9, threads=2).together == 5
    assert way(dense, settings=large, n_models=9, threads=2).workers == 2
    assert way(dense, settings=large, n_models=64, threads=2).together == 16
    assert way(dense, settings=large, n_models=1, threads=2).kind == "one by one"
    assert way(mlp((8,), 2), n_models=9, threads=2).workers == 1  # too little work for threads
    for net in (cnn((3, 32, 32), 10), WideResNet(3, 10, depth=16, width=4)):
        assert way(net).kind == "one by one"
        assert "CPU" in way(net).reason
    assert way(dense, "cuda", n_models=9) == ensemble.Way("stacked", 9, 1, "layers are dense")
    assert way(lenet((3, 32, 32), 10), "cuda", record_shape=(3, 32, 32)).together > 2
    wide = way(WideResNet(3, 10, depth=28, width=2), "cuda", settings=large, record_shape=(3, 32, 32))
    assert wide.kind == "one by one"
    assert "fills the GPU" in wide.reason
    assert "dropout" in way(mlp((8,), 2, dropout=0.5), "cuda").reason


def test_the_reason_is_logged_once(caplog):
    with caplog.at_level(logging.INFO):
        list(train(3))
    told = [record.getMessage() for record in caplog.records if "Reference models train" in record.getMessage()]
    assert len(told) == 1
    assert "stacked, up to 3" in told[0]
    assert "layers are dense" in told[0]


def test_what_stays_alone_says_why():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x):
            return self.layer(x)

    assert "Own" in way(Own()).reason
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    assert "share parameters" in way(tied).reason
    layer = nn.Linear(2, 2)
    assert "several places" in way(nn.Sequential(layer, nn.ReLU(), layer)).reason
    hooked = nn.Sequential(nn.Linear(2, 2))
    hooked[0].register_forward_hook(lambda *args: None)
    assert "hooks" in way(hooked).reason


def test_multiplications_are_those_of_the_definition():
    net = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 16, 7))
    assert ways.costs(net, (4, 8, 8))[0] == 6 * 64 * 9 * 2 + 6 * 16 * 7


def test_only_whole_numbers_of_a_byte_are_compacted():
    whole = torch.arange(256.0).reshape(128, 2)
    assert torch.equal(compact(whole).to(torch.float32), whole)
    assert compact(whole).dtype == compact(torch.tensor([1, 2])).dtype == torch.uint8
    late = torch.zeros(1000, 2)
    late[-1, -1] = 0.5
    for other in (whole + 1, whole - 1, whole + 0.5, late, torch.tensor([float("nan")]), torch.tensor([1, 300])):
        assert compact(other) is other
