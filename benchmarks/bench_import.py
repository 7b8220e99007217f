"""What the plugin adds to `import mlflow`: the entry point that loads there, and the hook that fires there.

    python benchmarks/bench_import.py [repetitions]

`python -X importtime` does not see modules that are imported through an entry point, so both are timed from inside.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

PROBE = """
import importlib.metadata as metadata, sys, time
spent = []
def timed(function):
    def call(*args):
        start = time.perf_counter()
        value = function(*args)
        spent.append(time.perf_counter() - start)
        return value
    return call
load = metadata.EntryPoint.load
def load_ours(self):
    value = timed(load)(self) if self.value.startswith("mlflow_privacy") else load(self)
    if self.value.startswith("mlflow_privacy"):
        hook = sys.modules["mlflow_privacy.evaluators.hook"]
        hook.install_privacy_meter_hook.__globals__["_wrap"] = timed(hook._wrap)
    return value
metadata.EntryPoint.load = load_ours
start = time.perf_counter()
import mlflow
print(sum(spent) * 1000, (time.perf_counter() - start) * 1000, "torch" in sys.modules, len(spent))
"""


def measure() -> tuple[float, float]:
    """Milliseconds of (entry point and hook, `import mlflow` as a whole) in a fresh process."""
    command = [sys.executable, "-W", "ignore", "-c", PROBE]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    if out[2] != "False" or out[3] != "2":
        raise SystemExit(f"Expected no torch, and the entry point and the hook to run once each; got {out}.")
    return float(out[0]), float(out[1])


def main() -> None:
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    ours, total = zip(*(measure() for _ in range(repetitions)), strict=True)
    print(f"plugin:        median {statistics.median(ours):.2f} ms, worst {max(ours):.2f} ms (n={repetitions})")
    print(f"import mlflow: median {statistics.median(total):.0f} ms")


if __name__ == "__main__":
    main()
