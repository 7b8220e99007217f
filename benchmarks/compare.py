"""The same audit by Privacy Meter v2 and by mlflow-privacy, stage by stage, in one run on one machine.

    python benchmarks/compare.py --privacy-meter PATH --workload purchase-mlp --repeats 3
    MLFLOW_PRIVACY_DATA=... python benchmarks/compare.py --privacy-meter PATH --workload location-mlp
    MLFLOW_PRIVACY_DATA=... python benchmarks/compare.py --privacy-meter PATH --workload cifar-cnn --rows 6000
    python benchmarks/compare.py --privacy-meter PATH --workload scoring
    MLFLOW_PRIVACY_DATA=... python benchmarks/compare.py --privacy-meter PATH --workload cifar-wrn --device cuda
    MLFLOW_PRIVACY_DATA=... python benchmarks/compare.py --privacy-meter PATH --workload agnews-gpt2 --gpt2 2,64,500
    python benchmarks/compare.py --workload growth

PATH is a checkout of https://github.com/privacytrustlab/ml_privacy_meter, which is read and run, never written to. Both
tools get the same arrays, architecture, optimizer, schedule, epochs and number of references. Each run is a fresh
process; the order alternates between repetitions; figures are medians, and those of one invocation alone compare.

Three columns: `theirs`; `ours`, all that an audit does by default (four attacks with intervals, the blind baseline,
registry, report); `ours, same work`, the offline RMIA with tuned `a` alone. Another accuracy than theirs, or a lower
AUC, ends with exit code 1. Theirs tests each model on its other half after every epoch; ours does not, and what that
would add is measured apart.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from compare_workloads import TOOLS, WORKLOADS, configs, make_data

HERE = Path(__file__).parent
STAGES = ("imports", "data", "training", "signals", "attack", "blind baseline", "registry", "report", "other")
_ACCURACY, _AUC = 0.03, 0.02  # how far accuracies may differ; how much lower our AUC may be


def their_stages(log: str) -> dict[str, float]:
    """Seconds per stage from Privacy Meter's time log: as it says, or from the times of its lines.

    >>> stages = their_stages('''2026-01-01 00:00:01,000 INFO     Loading dataset took 0.50000 seconds
    ... 2026-01-01 00:00:09,000 INFO     Model loading/training took 8.0 seconds
    ... 2026-01-01 00:00:10,000 INFO     Preparing signals took 1.00000 seconds
    ... 2026-01-01 00:00:12,500 INFO     Target Model 0: AUC 0.7000, TPR@0.1%FPR of 0.1, TPR@0.0%FPR of 0.0
    ... 2026-01-01 00:00:16,000 INFO     Auditing the privacy risks of target model 0 costs 6.0 seconds
    ... 2026-01-01 00:00:16,000 INFO     Total runtime: 15.50000 seconds''')
    >>> stages["training"], stages["attack"], stages["report"], stages["auc"]
    (8.0, 2.5, 3.5, 0.7)
    """
    said = {
        "data": "Loading dataset took",
        "training": "Model loading/training took",
        "signals": "Preparing signals took",
    }
    stages = {stage: float(_after(log, words)) for stage, words in said.items()}
    began, scored = _moment(log, "Preparing signals took"), _moment(log, "Target Model 0: AUC")
    ended = _moment(log, "Auditing the privacy risks of target model 0 costs")
    stages |= {"attack": scored - began, "report": ended - scored}
    return {**stages, "auc": float(_after(log, "Target Model 0: AUC"))}


def _after(log: str, words: str) -> str:
    """The number that follows some words."""
    found = re.search(re.escape(words) + r" ([\d.]*\d)", log)
    if found is None:
        raise SystemExit(f"Privacy Meter's time log has no line {words!r}; is the checkout of version 2?")
    return found[1]


def _moment(log: str, words: str) -> float:
    """Seconds since 1970 of the line that has some words."""
    line = next(line for line in log.splitlines() if words in line)
    return datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").timestamp()


def our_stages(found: Mapping[str, Any], log: str) -> dict[str, float]:
    """Seconds per stage of our run.

    Args:
      found: what the process returned: seconds of imports and of all the rest, the experiment's own `timings`.
      log: our time log, whose last part is the audit's stages. Training references includes their signals.

    >>> found = {"imports": 5.0, "main": 10.0, "train_seconds": 1.0,
    ...          "timings": {"load data": 0.5, "train targets": 1.5, "audit": 7.0}}
    >>> stages = our_stages(found, '''audit of x
    ...   lineage   0.4 s
    ...   references   3.0 s
    ...   attacks   1.0 s
    ...   total   4.4 s''')
    >>> stages["training"], stages["registry"], round(stages["report"], 3)
    (4.0, 0.9, 3.6)
    """
    audit = {stage: float(s) for stage, s in re.findall(r"^  (.+?) +([\d.]+) s$", log.rsplit("audit of ", 1)[-1], re.M)}
    audit.pop("total", None)
    timings = found["timings"]
    stages = {
        "data": timings["load data"],
        "training": found["train_seconds"] + audit.get("references", 0.0),
        "signals": audit.get("target signals", 0.0),
        "attack": audit.get("attacks", 0.0),
        "blind baseline": audit.get("blind baseline", 0.0),
        "registry": timings["train targets"]
        - found["train_seconds"]
        + audit.get("lineage", 0)
        + audit.get("digests", 0),
    }
    return {**stages, "report": found["main"] - sum(stages.values())}


def qualities(metadata: Mapping[str, Any]) -> dict[str, float]:
    """Mean accuracy of all models on the records they trained on, and on the others, from `models_metadata.json`.

    Of language models, which have none, it is the loss.

    >>> qualities({"0": {"train_acc": None, "test_acc": None, "train_loss": 2.0, "test_loss": 3.0}})
    {'train loss': 2.0, 'test loss': 3.0}
    """
    kind = ("acc", "accuracy") if next(iter(metadata.values()))["train_acc"] is not None else ("loss", "loss")
    parts = ("train", "test")
    return {
        f"{part} {kind[1]}": float(np.mean([float(m[f"{part}_{kind[0]}"]) for m in metadata.values()]))
        for part in parts
    }


def median_of(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each figure over repetitions.

    >>> median_of([{"a": 1.0}, {"a": 5.0}, {"a": 2.0}])
    {'a': 2.0}
    """
    return {key: statistics.median(run.get(key, 0.0) for run in runs) for key in {k: None for run in runs for k in run}}


def faults(medians: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Why the tools did not do the same work, a sentence each.

    >>> theirs = {"train accuracy": 1.0, "test accuracy": 0.7, "AUC": 0.8}
    >>> faults({"theirs": theirs, "ours": {**theirs, "test accuracy": 0.6}})
    ['ours: test accuracy 0.600, theirs 0.700.']
    """
    found = []
    for tool, figures in medians.items():
        if tool == "theirs" or "theirs" not in medians:
            continue
        theirs = medians["theirs"]
        for key in ("train accuracy", "test accuracy"):  # no losses of language models: theirs count the padding
            if key in theirs and abs(figures[key] - theirs[key]) > _ACCURACY:
                found.append(f"{tool}: {key} {figures[key]:.3f}, theirs {theirs[key]:.3f}.")
        if figures["AUC"] < theirs["AUC"] - _AUC:
            found.append(f"{tool}: AUC {figures['AUC']:.3f} is lower than theirs, {theirs['AUC']:.3f}.")
    return found


def table(medians: Mapping[str, Mapping[str, float]]) -> str:
    """A Markdown table: a row a stage, a column a tool, and how many times faster ours is than theirs."""
    tools = list(medians)
    ours = [tool for tool in tools if tool != "theirs"] if "theirs" in tools else []
    head = ["", *(f"{tool}, s" for tool in tools), *(f"ratio, {tool}" for tool in ours)]
    rows = [head, ["---"] * len(head)]
    for stage in (*STAGES, "total", "total, testing every epoch"):
        if not any(figures.get(stage) for figures in medians.values()):
            continue
        seconds = [figures.get(stage) for figures in medians.values()]
        cells = ["–" if not s else f"{s:.2f}" for s in seconds]
        ratios = []
        for tool in ours:
            a, b = medians["theirs"].get(stage), medians[tool].get(stage)
            ratios.append(f"{a / b:.1f} ×" if a and b else "–")
        rows.append([stage, *cells, *ratios])
    for key in ("peak MB", "train accuracy", "test accuracy", "train loss", "test loss", "AUC"):
        if any(key in figures for figures in medians.values()):
            form = ".0f" if "MB" in key else ".3f"
            cells = [f"{figures[key]:{form}}" if key in figures else "–" for figures in medians.values()]
            rows.append([key, *cells, *[""] * len(ours)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def call(script: str, what: str, spec: Mapping[str, Any], threads: int | None) -> tuple[dict[str, Any], float]:
    """Runs a helper in a fresh process; returns what it found and its whole wall-clock seconds."""
    folder = Path(spec["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    given = {**spec, "result": str(folder / "result.json")}
    (folder / "spec.json").write_text(json.dumps(given))
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(HERE / script), what, str(folder / "spec.json")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{script} {what} failed:\n{done.stdout[-3000:]}")
    return json.loads(Path(given["result"]).read_text()), seconds


def one_run(tool: str, spec: Mapping[str, Any], threads: int | None) -> dict[str, Any]:
    """One repetition of one tool: all figures of it."""
    load = os.getloadavg()[0]
    script = "compare_theirs.py" if tool == "theirs" else "compare_ours.py"
    found, wall = call(script, "run", spec, threads)
    folder = Path(spec["folder"]) / spec["log_dir"]
    log = (folder / "report" / ("log_time_analysis.log")).read_text()
    stages = their_stages(log) if tool == "theirs" else our_stages(found, log)
    auc = stages.pop("auc", None)
    if auc is None:
        auc = found["audit"].get("privacy/rmia/auc", found["audit"].get("privacy/rmia_offline/auc"))
    quality = qualities(json.loads((folder / "models" / "models_metadata.json").read_text()))
    figures = {"imports": found["imports"], **stages}
    figures |= {"other": wall - sum(figures.values()), "total": wall}
    figures["total, testing every epoch"] = wall  # theirs does it anyway
    if "every_epoch" in found:
        figures["other"] -= found["every_epoch"]
        figures["total"] -= found["every_epoch"]
    figures |= {"peak MB": found["peak_mb"], **quality, "AUC": auc, "load": load}
    if found.get("shims"):
        print(f"shims: {'; '.join(found['shims'])}", file=sys.stderr)
    return figures


def beside(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All repetitions of a workload by all tools."""
    workload = WORKLOADS[arguments.workload]
    epochs = arguments.epochs or workload.epochs
    made = make_data(arguments.workload, arguments.rows, folder, gpt2=arguments.gpt2)
    made |= {"dataset": workload.dataset, "path": str(Path(arguments.privacy_meter).resolve())}
    if workload.kind == "image":
        made["shape"] = None  # theirs as it is
    settings = configs(
        workload, epochs=epochs, references=arguments.references, device=arguments.device, seed=arguments.seed
    )
    size = f"{made['rows']} + {made['apart']} records, {epochs} epochs, {arguments.references} references"
    print(f"{arguments.workload}: {size}. {machine()}", flush=True)
    call("compare_theirs.py", "prepare", {**made, "folder": str(folder / "theirs")}, arguments.threads)
    runs: dict[str, list[dict[str, Any]]] = {tool: [] for tool in TOOLS}
    for repeat in range(arguments.repeats):
        for tool in TOOLS if repeat % 2 == 0 else TOOLS[::-1]:
            spec = {**made, "config": settings[tool], "folder": str(folder / _plain(tool)), "log_dir": f"r{repeat}"}
            if tool != "theirs":  # a store of its own, or the references of the last repetition would be found
                spec |= {"folder": str(folder / _plain(tool) / str(repeat)), "every_epoch": workload.kind != "text"}
                call("compare_ours.py", "prepare", spec, arguments.threads)
            if arguments.profile and tool == "ours":
                spec["profile"] = str(Path(arguments.profile).resolve())
            runs[tool].append(one_run(tool, spec, arguments.threads))
            last = runs[tool][-1]
            print(f"  {repeat} {tool:<16}{last['total']:8.2f} s   load {last['load']:.1f}", flush=True)
    medians = {tool: median_of(found) for tool, found in runs.items()}
    return {"workload": arguments.workload, "size": size, "machine": machine(), "runs": runs, "medians": medians}


def _plain(tool: str) -> str:
    """A tool's name as that of a folder.

    >>> _plain("ours, same work")
    'ours-same-work'
    """
    return re.sub(r"\W+", "-", tool)


def machine() -> str:
    """Processors and versions."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, NumPy {np.__version__}"
    return f"{os.cpu_count()} CPUs ({platform.machine()}), {device}; {versions}"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; `--privacy-meter` is needed but for `growth`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--privacy-meter", metavar="PATH", help="checkout of Privacy Meter v2")
    parser.add_argument("--workload", choices=[*WORKLOADS, "scoring", "growth"], default="purchase-mlp")
    parser.add_argument("--rows", type=int, help="records in all, a quarter of them population")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--references", type=int, default=4, help="OUT references of each record")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--gpt2",
        default="12,768,50257",
        metavar="LAYERS,WIDTH,TOKENS",
        help="size of the GPT-2 of a text workload; its weights are random, the work is the same",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="OMP_NUM_THREADS of every process; default: as it is")
    parser.add_argument("--output", help="JSON of all repetitions")
    parser.add_argument("--figure", help="PNG of the stages side by side")
    parser.add_argument("--profile", help="cProfile of our run; its times are then not comparable")
    parsed = parser.parse_args(arguments)
    if parsed.workload != "growth":
        if parsed.privacy_meter is None:
            parser.error(f"--workload {parsed.workload} needs --privacy-meter PATH, a checkout of Privacy Meter v2.")
        if not (Path(parsed.privacy_meter) / "run_mia.py").is_file():
            parser.error(f"--privacy-meter {parsed.privacy_meter} has no run_mia.py. Name a checkout of version 2.")
    if parsed.workload in WORKLOADS and WORKLOADS[parsed.workload].cuda and not parsed.device.startswith("cuda"):
        parser.error(
            f"--workload {parsed.workload} needs --device cuda: Privacy Meter's code for it runs nowhere else."
        )
    return parsed


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory(prefix="compare-") as name:
        folder = Path(name)
        if arguments.workload == "scoring":
            from compare_scoring import scoring

            found: Any = scoring(Path(arguments.privacy_meter), repeats=arguments.repeats)
        elif arguments.workload == "growth":
            from compare_growth import growth

            found = growth(folder, repeats=arguments.repeats, threads=arguments.threads)
        else:
            found = beside(arguments, folder)
            print(table(found["medians"]))
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(found, indent=1))
    if arguments.figure and "medians" in found:
        from compare_plot import plot

        plot(found, Path(arguments.figure))
    checked = "medians" in found and WORKLOADS[arguments.workload].checked
    wrong = faults(found["medians"]) if checked else []
    print("\n".join(wrong))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
