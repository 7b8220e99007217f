"""Sample configs at their real size, beside the published figures.

    MLFLOW_PRIVACY_DATA=FOLDER python benchmarks/bench_published.py location30
    MLFLOW_PRIVACY_DATA=FOLDER python benchmarks/bench_published.py cifar10 --device cuda --references 1 2 4
    MLFLOW_PRIVACY_DATA=FOLDER python benchmarks/bench_published.py cifar10_speedyresnet --device cuda --references 4 8

The folder is laid out as the loaders take it (`cifar10/*.parquet`, `location30.npz`). References are added to those
that are there, in one store, so that 1, 2, 4 OUT references cost no more than 4. `--set` shrinks a config; figures of a
shrunken run say nothing beside published ones.

Published, offline RMIA on CIFAR-10 with WRN28-2 (Zarifzadeh et al. 2024, https://arxiv.org/abs/2312.03262, Table 2),
for 1, 2, 4 OUT references: AUC 68.64, 70.13, 71.02 %; TPR at 0.01 % FPR 1.19, 1.71, 2.91 %.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

CONFIGS = Path(__file__).parents[1] / "configs"
PUBLISHED = {("cifar10", 1): (0.6864, 0.0119), ("cifar10", 2): (0.7013, 0.0171), ("cifar10", 4): (0.7102, 0.0291)}


def rate(metrics: dict[str, float], name: str) -> str:
    """A metric with its interval, or that it cannot be resolved."""
    if name not in metrics:
        return "not resolvable"
    return f"{metrics[name]:.4f} [{metrics[f'{name}_low']:.4f}, {metrics[f'{name}_high']:.4f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="name of a file in configs/, without .yaml")
    parser.add_argument("--references", type=int, nargs="+", default=[4], help="OUT references of each record")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--data-size", type=int, help="records audited; default: the whole pool")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    folder = os.environ.get("MLFLOW_PRIVACY_DATA")
    if not folder:
        sys.exit("Set MLFLOW_PRIVACY_DATA to the folder with the data, see the head of this file.")
    import mlflow

    import mlflow_privacy
    from mlflow_privacy.experiment.load import load_config
    from mlflow_privacy.experiment.run import evaluator_options, run_experiment

    size = "null" if arguments.data_size is None else str(arguments.data_size)
    overrides = [f"data.data_dir={folder}", f"audit.data_size={size}", "run.log_dir=null", *arguments.set]
    first = [*overrides, f"audit.num_ref_models={arguments.references[0]}"]
    config = load_config(CONFIGS / f"{arguments.config}.yaml", first, device=arguments.device)
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        mlflow.set_tracking_uri(f"sqlite:///{scratch}/mlflow.db")
        started = time.perf_counter()
        (target,) = run_experiment(config).targets
        quality = {key: f"{value:.4f}" for key, value in target.metrics.items() if key.endswith("accuracy")}
        print(f"{arguments.config}: {quality}, target and first audit {time.perf_counter() - started:.1f} s")
        print(
            "| OUT references | attack | AUC | TPR at 1 % FPR | at 0.1 % | at 0.01 % | published AUC, TPR at 0.01 % |"
        )
        print("|---|---|---|---|---|---|---|")
        for count in arguments.references:
            options = evaluator_options(config) | {"num_ref_models": 2 * count, "write_back": False}
            metrics = mlflow_privacy.evaluate(target.model_uri, **options).metrics
            for attack in ("rmia", "rmia_offline", "lira", "population"):
                names = [
                    f"privacy/{attack}/{m}" for m in ("auc", *(f"tpr_at_fpr_{f}" for f in ("0.01", "0.001", "0.0001")))
                ]
                beside = PUBLISHED.get((arguments.config, count)) if attack == "rmia_offline" else None
                cells = [str(count), attack, *(rate(metrics, name) for name in names)]
                print(f"| {' | '.join(cells)} | {'' if beside is None else f'{beside[0]}, {beside[1]}'} |")


if __name__ == "__main__":
    main()
