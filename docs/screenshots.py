"""Screenshots of MLflow's pages for an audited model, taken from a running server with headless Chromium.

    python docs/screenshots.py http://127.0.0.1:5000 credit-scorer docs/images

Takes the pages on which a person meets an audit: the version list, each version with its description block, the
audit run (overview, metrics, artifacts), the logged model, the models list, and the comparison of versions, of audit
runs and of logged models. Nothing on the server is changed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
from pathlib import Path

from mlflow import MlflowClient


def pages(client: MlflowClient, name: str, max_versions: int) -> dict[str, str]:
    """Page address below the server's root, by the name of its image.

    Args:
      name: of the registered model.
      max_versions: newest versions to show, each with its audit.

    Raises: SystemExit: no version of the model has been audited.
    """
    versions = sorted(client.search_model_versions(f"name='{name}'"), key=lambda v: int(v.version))
    audited = [v for v in versions if "privacy.audit_run" in v.tags][-max_versions:]
    if not audited:
        sys.exit(f"No version of {name} has been audited; audit one first.")
    model = f"#/models/{urllib.parse.quote(name, safe='')}"
    found = {"versions": model}
    runs, models, experiment = [], [], ""
    for version in audited:
        run = client.get_run(version.tags["privacy.audit_run"])
        experiment, run_id = run.info.experiment_id, run.info.run_id
        at = f"#/experiments/{experiment}/runs/{run_id}"
        label = f"v{version.version}"
        found[f"{label}_version"] = f"{model}/versions/{version.version}"
        found[f"{label}_run"] = at
        found[f"{label}_run_metrics"] = f"{at}/model-metrics"
        found[f"{label}_run_report"] = f"{at}/artifacts/privacy_report.html"
        for artifact in ("roc.png", "scores_histogram.png", "roc.csv"):
            found[f"{label}_run_artifact_{artifact.replace('.', '_')}"] = f"{at}/artifacts/privacy/{artifact}"
        runs.append(run_id)
        model_id = run.data.tags.get("privacy.model_id")
        if model_id:
            models.append(model_id)
            home = client.get_logged_model(model_id).experiment_id
            found[f"{label}_logged_model"] = f"#/experiments/{home}/models/{model_id}"
            found[f"{label}_logged_model_artifacts"] = f"#/experiments/{home}/models/{model_id}/artifacts"
            found["models_list"] = f"#/experiments/{home}/models"
    if len(audited) > 1:
        sources = json.dumps({v.version: v.run_id for v in audited}, separators=(",", ":"))
        found["compare_versions"] = (
            f"#/compare-model-versions?name={json.dumps(urllib.parse.quote(name, safe=''))}&runs={sources}"
        )
        both = urllib.parse.urlencode(
            {"runs": json.dumps(runs), "experiments": json.dumps([experiment])}, quote_via=urllib.parse.quote
        )
        found["compare_audit_runs"] = f"#/compare-runs?{both}"
    return found


def shoot(chromium: str, url: str, target: Path, *, width: int, height: int, wait_ms: int) -> None:
    """One page to a PNG, by a browser with an empty profile.

    Raises: subprocess.CalledProcessError, subprocess.TimeoutExpired: the browser failed.
    """
    with tempfile.TemporaryDirectory() as profile:
        command = [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--hide-scrollbars",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-features=IsolateSandboxedIframes",  # headless, such a frame stays blank
            f"--user-data-dir={profile}",
            f"--window-size={width},{height}",
            f"--virtual-time-budget={wait_ms}",
            f"--screenshot={target}",
            url,
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=60 + wait_ms / 1000 * 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", help="address of the MLflow server, such as http://127.0.0.1:5000")
    parser.add_argument("model", help="name of an audited registered model")
    parser.add_argument("folder", type=Path, help="where the PNGs go")
    parser.add_argument("--only", default="", help="take only pages whose name contains this")
    parser.add_argument("--versions", type=int, default=2, help="how many of the newest audited versions to show")
    parser.add_argument("--width", type=int, default=1400)
    parser.add_argument("--height", type=int, default=1000)
    parser.add_argument("--wait-ms", type=int, default=15000, help="time a page gets to load")
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("google-chrome") or "chromium")
    arguments = parser.parse_args()
    server = arguments.server.rstrip("/")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    wanted = pages(MlflowClient(server), arguments.model, arguments.versions)
    for name, address in wanted.items():
        if arguments.only not in name:
            continue
        # A list has a column per metric, a comparison a row per metric.
        width = 2 * arguments.width if name == "models_list" else arguments.width
        height = 2 * arguments.height if name.startswith("compare") else arguments.height
        target = (arguments.folder / f"{name}.png").resolve()
        shoot(
            arguments.chromium,
            f"{server}/{address}",
            target,
            width=width,
            height=height,
            wait_ms=arguments.wait_ms,
        )
        print(f"{target.name}  {server}/{address}")


if __name__ == "__main__":
    main()
