"""`mlflow-privacy compare`: audited versions side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from mlflow_privacy.errors import ConfigError


@click.command("compare")
@click.argument("model_uris", nargs=-1, required=True, metavar="MODEL_URI MODEL_URI...")
@click.option("--attack", metavar="NAME", help="Whose scores are compared. Default: the one the verdict is about.")
@click.option(
    "--fpr", "fprs", multiple=True, type=float, help="Compare the TPR at it, repeatable. Default: 0.1 0.01 0.001."
)
@click.option("--confidence", type=float, default=0.95, show_default=True, help="Of the intervals.")
@click.option("--output", type=click.Path(path_type=Path), help="Also write the page to this file.")
@click.option("--experiment", help="MLflow experiment of the comparison. Default: that of the first audit.")
@click.option("--no-log", is_flag=True, help="Leave MLflow as it is.")
@click.option("--json", "as_json", is_flag=True, help="Print the metrics as JSON.")
def command(
    model_uris: tuple[str, ...], fprs: tuple[float, ...], no_log: bool, output: Path | None, as_json: bool, **given: Any
) -> None:
    """Compare the newest audits of models or versions, each against the first: which gives away more?

    Only what the audits left in MLflow is read. The comparison becomes a run with a page, privacy/compare.html.

    \b
    Examples:
      mlflow-privacy compare models:/credit-scorer/1 models:/credit-scorer/2
      mlflow-privacy compare models:/credit-scorer@champion models:/credit-scorer/7 --output compare.html --no-log
    """
    from mlflow_privacy.decide.compare import compare
    from mlflow_privacy.decide.compare_text import comparison_lines

    options = {**given, "fprs": fprs} if fprs else given
    result = compare(model_uris, log=not no_log, **options)
    if output is not None:
        from mlflow_privacy.decide.compare_html import comparison_html

        try:
            output.write_text(comparison_html(result), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--output {str(output)!r} cannot be written: {error}") from error
    if as_json:
        click.echo(
            json.dumps({"run_id": result.run_id, "fair": not result.unfair, "metrics": result.metrics}, indent=1)
        )
        return
    click.echo("\n".join(comparison_lines(result)))
    if result.run_id:
        click.echo(f"\nRun {result.run_id}; its page is the artifact privacy/compare.html.")
