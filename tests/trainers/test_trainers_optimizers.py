"""Optimizers without `torch._dynamo`: the same numbers, hooks and class."""

import functools
import subprocess
import sys

import pytest
import torch

from mlflow_privacy.trainers.settings import optimizer_class
from mlflow_privacy.trainers.torch.optimizers import without_compiler

NAMES = sorted(key.lower() for key in vars(torch.optim) if optimizer_class(key) is not None)


def weights_after(cls, steps=5, **options):
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(3, 4)), torch.nn.Parameter(torch.randn(4))]
    optimizer = cls(weights, lr=0.1, **options)
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        (weights[0] @ weights[1]).square().sum().backward()
        optimizer.step()
    return torch.cat([w.detach().flatten() for w in weights])


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_steps_are_those_of_torch_to_the_last_bit(name, fused):
    theirs, options = optimizer_class(name), {"fused": True} if fused else {}
    try:
        wanted = weights_after(theirs, **options)
    except (TypeError, RuntimeError):
        pytest.skip(f"{name} has no fused step here")
    ours = without_compiler(theirs)
    assert ours is not theirs
    assert issubclass(ours, theirs)
    assert torch.equal(weights_after(ours, **options), wanted)
    assert not torch.equal(weights_after(ours, steps=4, **options), wanted)


def test_step_hooks_are_called_and_gradients_of_the_step_are_not_kept():
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = without_compiler(torch.optim.SGD)([weight], lr=0.5, momentum=0.9)
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    weight.sum().backward()
    optimizer.step()
    assert seen == [True, "after"]
    assert weight.is_leaf
    assert torch.is_grad_enabled()
    assert not optimizer.state[weight]["momentum_buffer"].requires_grad


def test_a_method_in_an_unknown_wrapper_leaves_the_class_as_it_is():
    class Wrapped(torch.optim.SGD):
        @functools.wraps(torch.optim.SGD.zero_grad)
        def zero_grad(self, set_to_none=True):
            return super().zero_grad(set_to_none)

    assert without_compiler(Wrapped) is Wrapped


def test_no_optimizer_imports_the_compiler():
    code = (
        "import sys, torch\n"
        "from mlflow_privacy.trainers.settings import optimizer_class\n"
        "from mlflow_privacy.trainers.torch.optimizers import without_compiler\n"
        f"for name in {NAMES!r}:\n"
        "    weight = torch.nn.Parameter(torch.ones(2, 2))\n"
        "    optimizer = without_compiler(optimizer_class(name))([weight], lr=0.1)\n"
        "    weight.sum().backward(); optimizer.step(); optimizer.zero_grad()\n"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
