"""`mlflow-privacy config`: what a config file may hold."""

from __future__ import annotations

import click


@click.command("config")
def command() -> None:
    """List every key of a config file with its default and meaning, as Markdown."""
    from mlflow_privacy.experiment.sections import config_reference

    click.echo(config_reference(), nl=False)
