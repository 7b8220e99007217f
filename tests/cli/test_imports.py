"""What a whole audit from the command line imports."""

import json
import os
import subprocess
import sys

import numpy as np
import yaml

# Nothing of these is needed to train, register and audit an MLP: together they would take seconds.
NEEDLESS = {
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed.tensor",
    "torch.onnx",
    "sympy",
    "torchvision",
    "transformers",
    "datasets",
    "peft",
    "opacus",
    "skops",
    "ray",
    "mlflow.server",
}


def run(tmp_path, *words):
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db", "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_EXPERIMENT_ID", None)  # early releases of MLflow 3 set it for their children
    return subprocess.run(
        [sys.executable, "-W", "ignore", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )


def test_an_audit_of_an_mlp_imports_neither_the_compiler_nor_other_libraries(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", x=rng.normal(size=(80, 4)).astype(np.float32), y=rng.integers(0, 2, 80))
    config = {
        "run": {"register_as": "small"},
        "data": {"dataset": str(tmp_path / "data.npz")},
        "train": {"model_name": "mlp", "model_options": {"hidden": [4]}, "epochs": 1, "device": "cpu"},
        "audit": {"num_ref_models": 1, "device": "cpu"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    code = (
        "import gc, json, sys\n"
        "from mlflow_privacy.cli import main\n"
        "main(['run', 'config.yaml'], standalone_mode=False)\n"
        "print(json.dumps([sorted(sys.modules), gc.isenabled(), gc.get_freeze_count()]))"
    )
    done = run(tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    modules, collects, frozen = json.loads(done.stdout.splitlines()[-1])
    assert {
        "torch",
        "mlflow.pytorch",
        "mlflow_privacy.auditing.pipeline",
        "mlflow_privacy.trainers.torch.trainer",
    } <= set(modules)
    assert sorted(NEEDLESS & set(modules)) == []
    assert collects  # off during the imports alone
    assert frozen > 100_000  # and what they left is not searched again


def test_the_package_is_a_command_too(tmp_path):
    done = run(tmp_path, "-m", "mlflow_privacy", "--version")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mlflow-privacy, version ")
