"""`mlflow-privacy audit`: one audit of a registered model."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_privacy.cli.start import imports_ahead, verbosity
from mlflow_privacy.errors import ConfigError

if TYPE_CHECKING:
    from mlflow_privacy.types import AuditResult


@click.command("audit")
@click.argument("model_uri")
@click.option("--num-ref-models", type=click.IntRange(min=0), help="Reference models in all; 0 trains none.")
@click.option("--time-budget", metavar="TIME", help="For reference models: 600, '90 s', '10 min', '2 h'; whole groups.")
@click.option(
    "--game",
    type=click.Choice(["membership", "dp", "range", "usage"]),
    help="The question: who is a member (default), a lower bound on ε, membership of a range, share of the data used.",
)
@click.option("--game-option", "game_options", multiple=True, metavar="KEY=VALUE", help="Of the game, repeatable.")
@click.option("--attack", "attacks", multiple=True, metavar="NAME", help="Attack to run, repeatable; see `attacks`.")
@click.option("--train", help="Training records (the members): CSV, Parquet, NPZ, … Default: the model's lineage.")
@click.option("--holdout", help="Held-out records (the non-members). Default: the model's lineage.")
@click.option("--population", help="Records that no audited model trained on. Default: lineage, or the non-members.")
@click.option("--targets", multiple=True, metavar="COLUMN", help="Label column of the files above; or several.")
@click.option(
    "--class", "classes", multiple=True, metavar="LABEL", help="Of each output in order, repeatable. Default: sorted."
)
@click.option("--task", type=click.Choice(["classification", "regression"]), help="Default: what the model is.")
@click.option(
    "--output",
    multiple=True,
    metavar="NAME",
    help="logits or probabilities: what the model gives; or a column of it that counts, repeatable, in label order.",
)
@click.option("--recipe", type=click.Path(path_type=Path), help="YAML or JSON file: how reference models are trained.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--seed", type=click.IntRange(min=0), help="Of the reference splits.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Of inference.")
@click.option("--slice", "slices", multiple=True, metavar="COLUMN", help="Show the risk by this column, repeatable.")
@click.option("--show-records", is_flag=True, help="Show the content of the most exposed records in the report.")
@click.option("--experiment", help="MLflow experiment of the audit. Default: the active one, or that of the model.")
@click.option("--auditor", help="Who audits, for the report. Default: MLflow's user.")
@click.option("--people", metavar="NUMBER|COLUMN", help="How many people the training data is of, or who names them.")
@click.option(
    "--dpia",
    type=click.Path(path_type=Path),
    help="privacy_dpia.yaml of an earlier audit, filled in by the controller.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be found, trained and kept; train and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print run id, metrics and artifacts as JSON.")
@verbosity
def command(
    model_uri: str,
    recipe: Path | None,
    dpia: Path | None,
    people: str | None,
    attacks: tuple[str, ...],
    classes: tuple[str, ...],
    output: tuple[str, ...],
    targets: tuple[str, ...],
    game_options: tuple[str, ...],
    slices: tuple[str, ...],
    show_records: bool,
    dry_run: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Audit MODEL_URI, such as models:/credit-scorer/3, as mlflow.evaluate(..., evaluators=["privacy_meter"]) does.

    \b
    Examples:
      mlflow-privacy audit models:/credit-scorer/3
      mlflow-privacy audit models:/credit-scorer@champion --num-ref-models 16 --json
      mlflow-privacy audit models:/credit-scorer/3 --time-budget "10 min" --dry-run
      mlflow-privacy audit models:/credit-scorer/3 --train train.csv --holdout test.csv --targets default
      mlflow-privacy audit models:/credit-scorer/3 --game dp --game-option delta=1e-6
    """
    options = {("random_seed" if key == "seed" else key): value for key, value in given.items() if value is not None}
    if attacks:
        options["attacks"] = list(attacks)
    if classes:
        options["classes"] = list(classes)
    if targets:
        options["targets"] = targets[0] if len(targets) == 1 else list(targets)
    if output:
        options["output"] = output[0] if output in (("logits",), ("probabilities",)) else list(output)
    if game_options:
        options["game_options"] = _key_values(game_options)
    if slices:
        options["slices"] = list(slices)
    if show_records:
        options["show_records"] = True
    if people is not None:
        options["people"] = int(people) if people.isdecimal() else people
    if recipe is not None:
        options["recipe"] = _read_mapping(recipe, "the recipe", "{optimizer: SGD, epochs: 10}")
    if dpia is not None:
        options["dpia"] = _read_mapping(dpia, "the impact assessment", '{purposes: "Credit decisions."}')
    with imports_ahead():
        import mlflow.models.evaluation.evaluator_registry  # noqa: F401 (every audit comes to it)

        import mlflow_privacy

    if dry_run:
        plan: Any = mlflow_privacy.plan
        click.echo(f"{plan(model_uri, **options)}\n\nNothing was trained, and nothing was written.")
        return
    evaluate: Any = mlflow_privacy.evaluate
    with _results() as found:
        result = evaluate(model_uri, **options)
    if as_json:
        artifacts = {name: artifact.uri for name, artifact in result.artifacts.items()}
        record = {"model_uri": model_uri, "run_id": result.run_id, "metrics": result.metrics, "artifacts": artifacts}
        click.echo(json.dumps(record, indent=1, sort_keys=False, default=str))
        _echo_warnings(found)
        return
    from mlflow_privacy.cli.console import audit_text

    click.echo(f"{model_uri}, run {result.run_id}\n\n{audit_text(result.metrics)}")
    for one in found:
        from mlflow_privacy.report.sections.meaning import meaning
        from mlflow_privacy.report.text import verdict

        click.echo(f"\n{verdict(one)} {meaning(one)}")
    _echo_warnings(found)
    if "privacy/report" in result.artifacts:
        click.echo(f"\n{_where(result)}")


def _where(result: Any) -> str:
    """The file of the report and its page."""
    import mlflow

    from mlflow_privacy.store.places import where_report

    client = mlflow.MlflowClient()
    experiment_id = client.get_run(result.run_id).info.experiment_id
    return where_report(client.tracking_uri, experiment_id, result.run_id, result.artifacts["privacy/report"].uri)


@contextlib.contextmanager
def _results() -> Iterator[list[AuditResult]]:
    """Collects what the audits inside find, whose warnings then are told here, last, and not by the library."""
    from mlflow_privacy.evaluators.call import LISTENER

    found: list[AuditResult] = []
    token = LISTENER.set(found.append)
    try:
        yield found
    finally:
        LISTENER.reset(token)


def _echo_warnings(found: Sequence[AuditResult]) -> None:
    """What limits the audits, on stderr: a pipe that takes the figures leaves them on the screen."""
    for result in found:
        for warning in result.warnings:
            click.echo(f"Warning: {warning}", err=True)


def _key_values(texts: tuple[str, ...]) -> dict[str, Any]:
    """{"delta": 1e-6} of ["delta=1e-6"]; values as YAML has them."""
    from mlflow_privacy.experiment.yaml_text import parse_yaml

    found = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise ConfigError(f"--game-option must be KEY=VALUE, such as delta=1e-6, got {text!r}.")
        found[key.strip()] = parse_yaml(value, name="--game-option")
    return found


def _read_mapping(path: Path, what: str, example: str) -> dict[str, Any]:
    """A YAML or JSON file that holds one mapping. Nothing in it is imported or executed."""
    from mlflow_privacy.experiment.yaml_text import parse_yaml

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what} {str(path)!r} cannot be read: {error}") from error
    values = parse_yaml(text, name=path.name)
    if not isinstance(values, dict):
        raise ConfigError(f"{what} {path.name} must be a mapping such as {example}.")
    return values
