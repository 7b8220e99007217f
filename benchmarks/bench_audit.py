"""Time and peak memory per stage of one audit, on Purchase-100-shaped synthetic data or on Location-30.

    python benchmarks/bench_audit.py --records 20000 --references 8            # synthetic, in memory
    python benchmarks/bench_audit.py --mlflow                                  # with reference runs on SQLite
    MLFLOW_PRIVACY_DATA=... python benchmarks/bench_audit.py --data location30

The target and the references are an MLP features-128-classes. Times are wall clock and say something only as ratios
within one run; memory is the process's peak resident set while the stage ran, above what it held at the start.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import platform
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

FEATURES, CLASSES = 600, 100


def synthetic(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Binary features around one prototype per class, a tenth of them flipped: the shape of Purchase-100."""
    prototypes = rng.random((CLASSES, FEATURES)) < 0.3
    y = rng.integers(CLASSES, size=n)
    x = prototypes[y] ^ (rng.random((n, FEATURES)) < 0.25)
    return x.astype(np.float32), y


def location30() -> tuple[np.ndarray, np.ndarray]:
    folder = os.environ.get("MLFLOW_PRIVACY_DATA")
    if folder is None:
        raise SystemExit("Set MLFLOW_PRIVACY_DATA to the folder that holds location30.npz.")
    with np.load(Path(folder) / "location30.npz", allow_pickle=False) as file:
        return file["features"].astype(np.float32), file["labels"].astype(np.int64)


class StageMemory(logging.Handler):
    """Samples the resident set and notes its peak each time the pipeline logs that a stage is done."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.base = self.peak = self._resident()
        self.peaks: dict[str, float] = {}
        threading.Thread(target=self._sample, daemon=True).start()

    @staticmethod
    def _resident() -> float:
        """MB of resident memory (Linux)."""
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def _sample(self) -> None:
        while True:
            self.peak = max(self.peak, self._resident())
            time.sleep(0.005)

    def emit(self, record: logging.LogRecord) -> None:
        if record.args and record.msg == "%s: %.2f s":
            self.peaks[str(record.args[0])] = max(self.peak, self._resident()) - self.base
            self.peak = self._resident()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["synthetic", "location30"], default="synthetic")
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--references", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--mlflow", action="store_true", help="store reference runs in a temporary SQLite store")
    arguments = parser.parse_args()

    started = time.perf_counter()
    import torch

    from mlflow_privacy.auditing.options import AuditOptions
    from mlflow_privacy.auditing.pipeline import audit
    from mlflow_privacy.trainers import make_recipe, trainer_for
    from mlflow_privacy.types import AuditedModel, AuditTarget, Records
    from mlflow_privacy.zoo.models import mlp

    imported = time.perf_counter() - started
    rng = np.random.default_rng(0)
    x, y = location30() if arguments.data == "location30" else synthetic(arguments.records, rng)
    order = rng.permutation(len(y))
    pool = Records(x[order], y[order], np.array([f"row:{i}" for i in order]))
    member = np.arange(len(y)) < len(y) // 2
    settings = {
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "momentum": 0.9,
        "weight_decay": 0.0005,
        "epochs": arguments.epochs,
        "batch_size": 256,
    }
    module = mlp((x.shape[1],), int(y.max()) + 1, hidden=[128])
    recipe = make_recipe(module, settings, task="classification", data=pool)
    started = time.perf_counter()
    (model,) = trainer_for(recipe).train(recipe, pool, member[None], [0], device=arguments.device)
    one_model = time.perf_counter() - started
    target = AuditTarget(
        AuditedModel("benchmark", None, None, None, None, "pytorch", model),
        pool,
        member,
        "classification",
        recipe=recipe,
    )
    options = AuditOptions(num_ref_models=arguments.references, device=arguments.device, progress=False)
    memory = StageMemory()
    logger = logging.getLogger("mlflow_privacy.auditing.clock")
    logger.setLevel(logging.INFO)
    logger.addHandler(memory)
    with open_store() if arguments.mlflow else contextlib.nullcontext(None) as store:
        started = time.perf_counter()
        result = audit(target, options, store)
        total = time.perf_counter() - started
    print(f"Python {platform.python_version()}, torch {torch.__version__}, NumPy {np.__version__}, ", end="")
    print(f"{os.cpu_count()} CPUs, {torch.get_num_threads()} threads, GPU: {gpu(torch)}")
    size = f"{len(y)} x {x.shape[1]}"
    print(f"{arguments.data}: {size}, {arguments.references} references, {arguments.epochs} epochs")
    print(f"{'stage':<18}{'s':>9}{'share':>8}{'peak MB':>10}")
    for stage, seconds in result.timings.items():
        print(f"{stage:<18}{seconds:>9.3f}{seconds / total:>8.1%}{memory.peaks[stage]:>10.0f}")
    print(f"{'audit':<18}{total:>9.3f}   (imports {imported:.2f} s, one target {one_model:.2f} s)")
    for attack in result.attacks:
        print(f"{attack.name:<14} AUC {attack.metrics['auc']}  TPR@1% {attack.metrics['tpr_at_fpr_0.01']}")
    print(f"blind          AUC {result.blind}")
    print(f"target         {dict(result.fidelity.target)}")
    sys.stdout.flush()


def gpu(torch: Any) -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "none"


@contextlib.contextmanager
def open_store() -> Any:
    """A reference store in a temporary SQLite database."""
    import mlflow

    from mlflow_privacy.store.references import ReferenceStore

    with tempfile.TemporaryDirectory() as folder:
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        client = mlflow.MlflowClient()
        experiment = client.create_experiment("benchmark", artifact_location=f"{folder}/artifacts")
        with ReferenceStore(client, experiment, client.create_run(experiment).info.run_id) as store:
            yield store


if __name__ == "__main__":
    main()
