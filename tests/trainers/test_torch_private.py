"""What we need of torch's undocumented parts is still there, and without it the documented way does the same.

A test "torch still ..." that fails says which entry of `trainers/torch/private.py` needs a look.
"""

import importlib

import pytest
import torch
from torch import nn

from mlflow_privacy.trainers.torch import private


def test_torch_still_has_base_classes_of_convolutions_and_batch_normalisations():
    assert nn.modules.conv._ConvNd in private.CONVOLUTIONS
    assert nn.modules.batchnorm._BatchNorm in private.BATCH_NORMALISATIONS


def test_without_base_classes_the_layers_are_known_by_name(monkeypatch):
    layers = {
        name: layer
        for name, layer in vars(nn).items()
        if isinstance(layer, type) and issubclass(layer, (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm))
    }
    assert len(layers) > 12
    monkeypatch.delattr(nn.modules.conv, "_ConvNd")
    monkeypatch.delattr(nn.modules.batchnorm, "_BatchNorm")
    named = importlib.reload(private)
    try:
        unknown = [
            name
            for name, layer in layers.items()
            if not issubclass(layer, named.CONVOLUTIONS + named.BATCH_NORMALISATIONS)
        ]
        # The first batch makes them one of the others; until then they cannot be trained.
        assert unknown == ["LazyBatchNorm1d", "LazyBatchNorm2d", "LazyBatchNorm3d"]
    finally:
        monkeypatch.undo()
        importlib.reload(private)


def test_torch_still_keeps_hooks_under_those_names():
    for register in (
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
    ):
        layer = nn.Linear(1, 1)
        assert not private.has_hooks(nn.Sequential(layer)), "one of the names is gone: hooks are assumed"
        handle = getattr(layer, register)(lambda *_: None)
        assert private.has_hooks(nn.Sequential(layer)), register
        handle.remove()
        assert not private.has_hooks(layer)


def test_a_module_that_does_not_tell_its_hooks_is_taken_to_have_some(monkeypatch):
    monkeypatch.setattr(private, "_HOOKS", ("_renamed_hooks",))
    assert private.has_hooks(nn.Linear(1, 1))


def test_torch_still_keeps_what_it_compiles_under_that_name():
    layer = nn.Linear(1, 1)
    assert private.inside_compiled(layer) is layer
    assert private.inside_compiled(torch.compile(layer, backend="eager")) is layer


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "NAdam"])
def test_torch_still_wraps_optimizers_by_those_functions(name):
    cls = getattr(torch.optim, name)
    for method in ("step", "zero_grad", "add_param_group"):
        function = private.unwrapped(getattr(cls, method))
        assert function is not None, f"{name}.{method} has a wrapper that is not known: the compiler is imported again"
        assert not hasattr(function, "__wrapped__")


def test_an_unknown_wrapper_is_not_taken_off():
    import functools

    @functools.wraps(torch.optim.SGD.step)
    def step(self):
        return None

    assert private.unwrapped(step) is None


def test_torch_still_initialises_attention_by_that_method():
    assert not hasattr(nn.MultiheadAttention, private.RESETS[0])
    for cls in (nn.MultiheadAttention, nn.Transformer):
        assert any(hasattr(cls, name) for name in private.RESETS), cls


def test_torch_still_has_the_same_for_many_tensors_and_ours_gives_the_same(monkeypatch):
    def both():
        generator = torch.Generator().manual_seed(0)
        tensors, ends, others = ([torch.randn(n, generator=generator) for n in (3, 5)] for _ in range(3))
        private.lerp_all(tensors, ends, 0.3)
        private.copy_all(ends, others)
        assert all(map(torch.equal, ends, others))
        return tensors

    assert hasattr(torch, "_foreach_lerp_")
    assert hasattr(torch, "_foreach_copy_")
    fast = both()
    monkeypatch.delattr(torch, "_foreach_lerp_")
    monkeypatch.delattr(torch, "_foreach_copy_")
    for one, other in zip(fast, both(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
