"""What MLflow costs an audit: one stored reference, 64 of them end to end, and the same audit again.

    OMP_NUM_THREADS=1 python benchmarks/bench_store.py save             # ms a reference: SQLite, and a server
    OMP_NUM_THREADS=1 python benchmarks/bench_store.py audit            # 64 references of two small models
    OMP_NUM_THREADS=1 python benchmarks/bench_store.py repeat --epochs 100   # first and repeated audit, 20,001 x 600

Everything lies in a temporary folder. Times are wall clock and say something only beside others of the same run; the
number of HTTP requests does not depend on the machine.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

METHODS = ("create_run", "log_artifacts", "log_batch", "set_terminated")
OPTIONS = {"progress": False, "device": "cpu"}


class Timed:
    """A client that adds up the seconds of each of its methods."""

    def __init__(self, client: Any) -> None:
        self._client, self.seconds = client, collections.defaultdict(float)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if not callable(method):
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self.seconds[name] += time.perf_counter() - started

        return call


@contextlib.contextmanager
def counted_requests() -> Iterator[collections.Counter[str]]:
    """Counts HTTP requests by method and kind of address while the block runs."""
    import requests

    counts: collections.Counter[str] = collections.Counter()
    original = requests.adapters.HTTPAdapter.send

    def send(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        counts[f"{request.method} {kind_of(request.path_url)}"] += 1
        return original(self, request, *args, **kwargs)

    requests.adapters.HTTPAdapter.send = send  # type: ignore[method-assign]
    try:
        yield counts
    finally:
        requests.adapters.HTTPAdapter.send = original  # type: ignore[method-assign]


def kind_of(path: str) -> str:
    """The part of MLflow's API that an address belongs to.

    >>> kind_of("/api/2.0/mlflow/runs/log-batch")
    'runs/log-batch'
    >>> kind_of("/api/2.0/mlflow/logged-models/m-0123456789abcdef0123456789abcdef/tags")
    'logged-models/…/tags'
    >>> kind_of("/api/2.0/mlflow-artifacts/artifacts/1/abc/artifacts/membership.npy")
    'artifacts'
    """
    path = path.partition("?")[0]
    if "mlflow-artifacts" in path:
        return "artifacts"
    parts = path.partition("/mlflow/")[2].split("/")
    return "/".join("…" if len(part) > 30 else part for part in parts)


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """A real `mlflow server` with SQLite and proxied artifacts; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "a")]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen([*command, "--workers", "1"], stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(urllib.error.URLError, OSError):
                if urllib.request.urlopen(f"{url}/health", timeout=1).status == 200:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit((folder / "log").read_text()[-2000:])
            time.sleep(0.25)
        yield url
    finally:
        os.killpg(process.pid, 15)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()


@contextlib.contextmanager
def tracking(kind: str) -> Iterator[Path]:
    """Points MLflow at a new store, "sqlite" or "server"; yields its folder."""
    import mlflow

    with tempfile.TemporaryDirectory(prefix="bench-store-") as name:
        folder = Path(name)
        with contextlib.nullcontext(f"sqlite:///{folder}/mlflow.db") if kind == "sqlite" else server(folder) as uri:
            mlflow.set_tracking_uri(uri)
            mlflow.set_registry_uri(uri)
            client = mlflow.MlflowClient()
            location = str(folder / "artifacts") if kind == "sqlite" else None
            mlflow.set_experiment(experiment_id=client.create_experiment("bench", artifact_location=location))
            yield folder


# --- one reference -----------------------------------------------------------------------------------------------


def save_references(n: int, n_records: int = 2000) -> dict[str, float]:
    """Median ms of storing one reference of `n`, and of finding and reading one again.

    "save" is until the caller can go on, "finished" until the run is: training goes on meanwhile.
    """
    import mlflow

    from mlflow_privacy.store.keys import ReferenceKey, members_digest
    from mlflow_privacy.store.references import ReferenceStore
    from mlflow_privacy.types import ModelOutputs

    rng, client = np.random.default_rng(0), Timed(mlflow.MlflowClient())
    fingerprint, data = "f" * 64, "a" * 64
    rows: list[dict[str, float]] = []
    with mlflow.start_run() as run:
        with ReferenceStore(client, run.info.experiment_id, run.info.run_id) as store:  # type: ignore[arg-type]
            for index in range(n + 1):
                members = rng.random(n_records) < 0.5
                signal = rng.normal(size=n_records).astype(np.float32)
                outputs = ModelOutputs(signal, members, np.abs(signal), "logit")
                client.seconds.clear()
                started = time.perf_counter()
                store.save(
                    ReferenceKey(fingerprint, index, members_digest(members), index),
                    members,
                    outputs={data: outputs},
                    write_weights=lambda folder: False,
                    metrics=dict.fromkeys(("member_loss", "member_accuracy", "nonmember_loss"), 0.5),
                    recipe={"kind": "benchmark"},
                    started=time.time(),
                )
                saved = time.perf_counter() - started
                store.flush()
                whole = {"save": saved, "finished": time.perf_counter() - started}
                rows.append({**whole, **{name: client.seconds[name] for name in METHODS}})
        with ReferenceStore(client, run.info.experiment_id, run.info.run_id) as store:  # type: ignore[arg-type]
            started = time.perf_counter()
            found = store.find(fingerprint)
            reading = time.perf_counter()
            read = [store.read(one, data) for one in found.values()]
            ended = time.perf_counter()
    assert len(read) == n + 1
    assert all(one is not None for one in read)
    medians = {name: 1000 * statistics.median(row[name] for row in rows[1:]) for name in rows[0]}
    return {**medians, "find all": 1000 * (reading - started), "read one": 1000 * (ended - reading) / (n + 1)}


# --- audits ------------------------------------------------------------------------------------------------------


def blobs(n: int, features: int, classes: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(n, features) float32 around one centre per class, and (n,) labels."""
    y = rng.integers(classes, size=n)
    return (rng.normal(size=(classes, features))[y] + 2 * rng.normal(size=(n, features))).astype(np.float32), y


def register(kind: str, n: int, features: int, classes: int, epochs: int, name: str = "target") -> str:
    """Trains and registers a target with its lineage: "logistic", "mlp" or "cnn"; returns its URI."""
    import mlflow

    from mlflow_privacy.experiment.models import register_model
    from mlflow_privacy.lineage import log_lineage
    from mlflow_privacy.trainers import make_recipe, trainer_for
    from mlflow_privacy.types import Records

    x, y = blobs(n, features, classes, np.random.default_rng(0))
    if kind == "cnn":
        side = int(np.sqrt(features / 3))
        x = np.clip(32 * x[:, : 3 * side * side] + 128, 0, 255).astype(np.uint8).reshape(n, 3, side, side)
    half, pool = n // 2, Records(x, y, np.arange(n).astype(str))
    settings: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9, "epochs": epochs}
    settings["batch_size"] = 256
    with mlflow.start_run():
        if kind == "logistic":
            from sklearn.linear_model import LogisticRegression

            settings, model = {}, LogisticRegression(max_iter=200).fit(x[:half], y[:half])
        else:
            from mlflow_privacy.zoo import build_model, rescaled

            module = build_model(kind, x.shape[1:], classes, {}, task="classification")
            if kind == "cnn":
                module = rescaled(module, np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32))
            settings["loss"] = "cross_entropy"
            recipe = make_recipe(module, settings, task="classification", source="bench", data=pool)
            (model,) = trainer_for(recipe).train(recipe, pool, (np.arange(n) < half)[None], [0], device="cpu")
        log_lineage(train=(x[:half], y[:half]), holdout=(x[half:], y[half:]), recipe=settings or None)
        return f"models:/{name}/{register_model(model, name, x[:2])}"


def audit(uri: str, references: int) -> dict[str, Any]:
    """One `mlflow.evaluate`; seconds by stage, of the reference stage what is training, and the whole call."""
    import mlflow

    from mlflow_privacy.evaluators.call import LISTENER
    from mlflow_privacy.store.references import ReferenceStore

    found: list[Any] = []
    token, saving = LISTENER.set(found.append), collections.defaultdict(float)
    original = {name: getattr(ReferenceStore, name) for name in ("save", "find", "read")}

    def timed(name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return original[name](*args, **kwargs)
            finally:
                saving[name] += time.perf_counter() - started

        return call

    started, cpu = time.perf_counter(), time.process_time()
    try:
        for name in original:
            setattr(ReferenceStore, name, timed(name))
        config = {"privacy_meter": {**OPTIONS, "num_ref_models": references}}
        result = mlflow.evaluate(uri, evaluators=["privacy_meter"], evaluator_config=config)
    finally:
        for name, method in original.items():
            setattr(ReferenceStore, name, method)
        LISTENER.reset(token)
    total, cpu = time.perf_counter() - started, time.process_time() - cpu
    stages = dict(found[0].timings)
    stages["references: storing"] = saving["save"]
    stages["references: finding, reading"] = saving["find"] + saving["read"]
    stages["references: training, signals"] = stages.pop("references") - sum(saving.values())
    stages["report, publishing, MLflow"] = total - sum(stages.values())
    return {"stages": stages, "total": total, "cpu": cpu, "metrics": dict(result.metrics)}


def stage_table(titles: list[str], audits: list[dict[str, Any]]) -> str:
    """Seconds and share of each stage, a column pair per audit.

    >>> print(stage_table(["first"], [{"stages": {"training": 3.0, "report": 1.0}, "total": 4.0}]))
    | stage | first, s | share |
    |---|---|---|
    | training | 3.00 | 75 % |
    | report | 1.00 | 25 % |
    | total | 4.00 | 100 % |
    """
    head = "| stage |" + "".join(f" {title}, s | share |" for title in titles)
    lines = [head, "|---|" + "---|---|" * len(titles)]
    for stage in [*audits[0]["stages"], "total"]:
        cells = []
        for one in audits:
            seconds = one["total"] if stage == "total" else one["stages"].get(stage, 0.0)
            cells.append(f" {seconds:.2f} | {100 * seconds / one['total']:.0f} % |")
        lines.append(f"| {stage} |{''.join(cells)}")
    return "\n".join(lines)


def fresh_audit(uri: str, references: int) -> dict[str, Any]:
    """The audit in a new process on the same store; "total" is without, "process" with its imports."""
    import mlflow

    command = [sys.executable, "-W", "ignore", __file__, "child", "--uri", uri, "--references", str(references)]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()}
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return {**found, "process": time.perf_counter() - started}


# --- the command line --------------------------------------------------------------------------------------------


def run_save(arguments: argparse.Namespace) -> None:
    for kind in arguments.stores:
        with tracking(kind):
            found = save_references(arguments.references)
        print(f"{kind}, median of {arguments.references}, ms: ", end="")
        print(", ".join(f"{name} {value:.1f}" for name, value in found.items()))


def run_audit(arguments: argparse.Namespace) -> None:
    audits = []
    for kind in arguments.models:
        with tracking("sqlite"):
            uri = register(kind, arguments.records, arguments.features, arguments.classes, arguments.epochs)
            audits.append(audit(uri, arguments.references))
    size = f"{arguments.records} x {arguments.features}"
    print(f"{size}, {arguments.references} references, {arguments.epochs} epochs of what has epochs")
    print(stage_table(list(arguments.models), audits))


def run_repeat(arguments: argparse.Namespace) -> None:
    (kind,) = arguments.models
    with tracking("sqlite"):
        uri = register(kind, arguments.records, arguments.features, arguments.classes, arguments.epochs)
        first, again = audit(uri, arguments.references), audit(uri, arguments.references)
        fresh = fresh_audit(uri, arguments.references)
    assert first["metrics"] == again["metrics"] == fresh["metrics"], "a repeated audit must find the same"
    print(stage_table(["first", "again", "new process"], [first, again, fresh]))
    print(f"again {again['total'] / first['total']:.1%} of the first, ", end="")
    print(f"in a new process {fresh['total'] / first['total']:.1%} ({fresh['process']:.2f} s with imports)")
    print(f"CPU seconds: first {first['cpu']:.2f}, again {again['cpu']:.2f}, in a new process {fresh['cpu']:.2f}")


def run_requests(arguments: argparse.Namespace) -> None:
    (kind,) = arguments.models
    with tracking("server"):
        uri = register(kind, arguments.records, arguments.features, arguments.classes, arguments.epochs)
        for title in ("first audit", "repeated audit"):
            with counted_requests() as counts:
                audit(uri, arguments.references)
            print(f"{title}, {arguments.references} references: {sum(counts.values())} requests")
            for name, count in counts.most_common():
                print(f"  {count:4d} {name}")


def run_child(arguments: argparse.Namespace) -> None:
    import mlflow

    mlflow.set_experiment("bench")
    print(json.dumps(audit(arguments.uri, arguments.references)))


DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "save": {"references": 64},
    "audit": {"references": 64, "models": ["logistic", "mlp"], "records": 2000, "features": 20, "classes": 5},
    "repeat": {"references": 8, "models": ["mlp"], "records": 20_001, "features": 600, "classes": 100, "epochs": 100},
    "requests": {"references": 8, "models": ["logistic"], "records": 2000, "features": 20, "classes": 5},
    "child": {},
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(DEFAULTS))
    parser.add_argument("--references", type=int)
    parser.add_argument("--records", type=int)
    parser.add_argument("--features", type=int)
    parser.add_argument("--classes", type=int)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--models", nargs="+", choices=["logistic", "mlp", "cnn"])
    parser.add_argument("--stores", nargs="+", choices=["sqlite", "server"], default=["sqlite", "server"])
    parser.add_argument("--uri", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    for name, value in {"epochs": 10, **DEFAULTS[arguments.what]}.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    for name, value in (("ENABLE_ARTIFACTS_PROGRESS_BAR", "false"), ("SUPPRESS_PRINTING_URL_TO_STDOUT", "true")):
        os.environ.setdefault(f"MLFLOW_{name}", value)
    runs = {"save": run_save, "audit": run_audit, "repeat": run_repeat, "requests": run_requests, "child": run_child}
    runs[arguments.what](arguments)


if __name__ == "__main__":
    main()
