"""Memory that stays with the process while models train, and goes back to the system afterwards."""

import ctypes
import gc
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from mlflow_privacy.trainers.torch import kept_memory as module
from mlflow_privacy.trainers.torch.kept_memory import keeping_memory, kept_memory

resource = pytest.importorskip("resource")
glibc = pytest.mark.skipif(module._libc() is None, reason="another C library, or limits set by the environment")
BLOCKS, SIZE = 24, 1 << 20


def step():
    """Memory of a training step: all of it is freed at the end."""
    blocks = [np.ones(SIZE, np.uint8) for _ in range(BLOCKS)]
    del blocks


def faults_of(steps):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


@glibc
def test_steps_ask_the_system_for_memory_once():
    pages = BLOCKS * SIZE // resource.getpagesize()
    with kept_memory():
        step()
        assert faults_of(10) < pages / 2  # ten times as many if each step asked again
        found = []
        thread = threading.Thread(target=lambda: (step(), found.append(faults_of(10))))
        thread.start()
        thread.join()
        assert found[0] < pages / 2


@glibc
def test_memory_goes_back_at_the_outermost_end():
    with kept_memory():
        with kept_memory():
            blocks = [np.ones(SIZE, np.uint8) for _ in range(200)]
            full = resident_mb()
            del blocks
            gc.collect()
        assert resident_mb() > full - 20
    assert resident_mb() < full - 150


def test_limits_are_set_once_and_put_back_after_an_error(monkeypatch):
    calls = []

    class Libc:
        def mallopt(self, name, value):
            calls.append((name, value))

        def malloc_trim(self, pad):
            calls.append(("trim", pad.value))

    monkeypatch.setattr(module, "_libc", Libc)
    with pytest.raises(KeyError), kept_memory(), kept_memory():
        raise KeyError
    assert calls == [(-3, 2**25), (-1, -1), (-1, 2**26), ("trim", 0)]


def test_a_generator_that_is_closed_gives_its_memory_back(monkeypatch):
    calls = []

    class Libc:
        mallopt = staticmethod(lambda name, value: calls.append(value))
        malloc_trim = staticmethod(lambda pad: calls.append("trim"))

    monkeypatch.setattr(module, "_libc", Libc)
    generator = keeping_memory(range)(5)
    assert calls == []
    assert next(generator) == 0
    assert calls[-1] == -1
    generator.close()
    assert calls[-1] == "trim"


@pytest.mark.parametrize(
    ("name", "value"), [("MALLOC_TRIM_THRESHOLD_", "1"), ("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=1")]
)
def test_limits_of_the_user_stay(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    assert module._libc.__wrapped__() is None


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert module._libc.__wrapped__() is None
    monkeypatch.setattr(sys, "platform", "darwin")
    assert module._libc.__wrapped__() is None
    monkeypatch.setattr(module, "_libc", lambda: None)
    with kept_memory():
        assert module._keeping == 0
