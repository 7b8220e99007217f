"""`mlflow-privacy import`: a model of a Privacy Meter log directory, registered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mlflow_privacy.cli.start import verbosity


@click.command("import")
@click.argument("log_dir", type=click.Path(path_type=Path))
@click.option("--name", help="Of the registered model. Default: made of model and data set.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder of the data set.")
@click.option("--dataset", help="Data set, where the directory calls it by another name.")
@click.option("--target", type=click.IntRange(min=0), default=0, show_default=True, help="Number of the audited model.")
@click.option("--experiment", help="MLflow experiment. Default: the active one.")
@click.option("--config", type=click.Path(path_type=Path), help="YAML file of the training, for momentum and the data.")
@click.option(
    "--base", help="Checkpoint that language models started from, by hub name or folder. Default: their name."
)
@verbosity
def command(log_dir: Path, **given: Any) -> None:
    """Register a model of a Privacy Meter LOG_DIR; its other models become reference runs, so audits train none.

    \b
    Examples:
      mlflow-privacy import demo --data-dir data
      mlflow-privacy import demo --name cifar --target 2 && mlflow-privacy audit models:/cifar/1
    """
    from mlflow_privacy.privacy_meter.importer import import_log_dir

    report = import_log_dir(log_dir, **given)
    for note in report.notes:
        click.echo(note)
    click.echo(f"{report.model_uri}, run {report.run_id}, {len(report.reference_run_ids)} reference model(s)")
    click.echo(f"Audit it with: mlflow-privacy audit {report.model_uri}")
