"""The command line: `mlflow-privacy run | audit | import | compare | gate | config | attacks`.

Heavy imports wait until a command needs them.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import logging
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_privacy._version import __version__
from mlflow_privacy.errors import ConfigError, PrivacyAuditError

if TYPE_CHECKING:
    from mlflow_privacy.types import AuditResult

EXIT_BREACH, EXIT_ERROR = 1, 2


class _Failure(click.ClickException):
    exit_code = EXIT_ERROR


class _Group(click.Group):
    """Errors made on purpose are one clean line and exit code 2; 1 is kept for a gate's breach."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
                ctx.exit(EXIT_ERROR)
            if isinstance(error, (PrivacyAuditError, _mlflow_exception())):
                raise _Failure(str(error)) from error
            traceback.print_exc()  # a bug, or a library's own error: the traceback is what helps
            ctx.exit(EXIT_ERROR)


def _mlflow_exception() -> type[BaseException]:
    """MLflow's own errors, such as "no such model"; if MLflow is not loaded, none of them was raised."""
    module = sys.modules.get("mlflow.exceptions")
    return module.MlflowException if module else PrivacyAuditError


def _quiet_logs(verbose: bool) -> None:
    """Our own log lines, and from others warnings only: a database migration is nobody's news."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("mlflow_privacy").setLevel(logging.DEBUG if verbose else logging.INFO)
    if not verbose:
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        for name in ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent"):
            logging.getLogger(name).setLevel(logging.WARNING)


def collect_less() -> None:
    """Looks for garbage less often, and not once more at exit: that goes through 650,000 objects of the libraries."""
    gc.set_threshold(200_000, 20, 10)
    atexit.register(gc.freeze)


@contextlib.contextmanager
def imports_ahead() -> Iterator[None]:
    """Heavy imports below make no garbage worth a search, and what they leave is not searched later.

    Going through it again and again takes a tenth of an import's time, and a quarter with Python's own thresholds.
    """
    enabled, loaded = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > loaded + 500:  # else there was nothing to import, and a caller's garbage stays garbage
            gc.freeze()
        if enabled:
            gc.enable()


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="mlflow-privacy")
@click.option("--debug", is_flag=True, help="Show tracebacks and debug messages.")
@click.pass_context
def main(ctx: click.Context, debug: bool) -> None:
    """Audit the privacy of registered MLflow models with membership inference.

    The tracking server is MLflow's own: set MLFLOW_TRACKING_URI, or use the default store in the working directory.
    """
    if ctx.invoked_subcommand not in ("attacks", "config"):
        _quiet_logs(debug)
    collect_less()


@main.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--device", default="auto", help='For training and inference; "auto" leaves the config\'s.')
@click.option("--seed", default="", help="Instead of the config's run.random_seed.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help='Override a key of the config; repeat it, or separate by blanks: "train.epochs=1 audit.num_ref_models=2".',
)
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Where relative folders of the config lie (run.log_dir, data.data_dir). Default: the working directory.",
)
def run(config: Path, device: str, seed: str, overrides: tuple[str, ...], directory: Path | None) -> None:
    """Train, register and audit the targets of a CONFIG file.

    \b
    Examples:
      mlflow-privacy run configs/quickstart.yaml
      mlflow-privacy run configs/quickstart.yaml --seed 7 --set train.epochs=5 --set audit.num_ref_models=4
    """
    with imports_ahead():
        from mlflow_privacy.experiment.load import load_config

        # A faulty config is told before MLflow and all it brings is loaded.
        checked = load_config(
            config, _split_overrides(overrides), device=device.strip(), seed=_seed(seed), directory=directory
        )
        import mlflow.models.evaluation.evaluator_registry  # noqa: F401 (every audit comes to it)

        from mlflow_privacy.cli.console import experiment_text
        from mlflow_privacy.experiment.run import run_experiment

    # Terminated, the open runs end as failed instead of staying "running" for ever.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    report = run_experiment(checked)
    click.echo(f"\n{experiment_text(report)}\n\n{_where_to_look(report.name, report.experiment_id)}")


def _split_overrides(overrides: tuple[str, ...]) -> list[str]:
    """Each text may hold several overrides, as a shell would split them; quotes keep blanks."""
    try:
        return [word for text in overrides for word in shlex.split(text)]
    except ValueError as error:
        raise ConfigError(f"--set {' '.join(overrides)!r} cannot be split into key=value: {error}.") from error


def _seed(text: str) -> int | None:
    if not text.strip():
        return None
    if not text.strip().isdigit():
        raise ConfigError(f"--seed must be a whole number of at least 0, got {text!r}.")
    return int(text)


def _where_to_look(name: str, experiment_id: str) -> str:
    """The address of the results, and how to start the UI if it is not running."""
    import mlflow

    uri = mlflow.get_tracking_uri()
    if uri.startswith(("http://", "https://")):
        return f"See {uri.rstrip('/')}/#/models/{name} and {uri.rstrip('/')}/#/experiments/{experiment_id}"
    start = f"mlflow ui --backend-store-uri {shlex.quote(uri)}"
    return f"{start}\nthen see http://127.0.0.1:5000/#/models/{name} and http://127.0.0.1:5000/#/experiments/{experiment_id}"


@main.command()
@click.argument("model_uri")
@click.option("--num-ref-models", type=click.IntRange(min=0), help="Reference models in all; 0 trains none.")
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
@click.option("--targets", metavar="COLUMN", help="Label column of the files above.")
@click.option("--recipe", type=click.Path(path_type=Path), help="YAML or JSON file: how reference models are trained.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--seed", type=click.IntRange(min=0), help="Of the reference splits.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Of inference.")
@click.option("--slice", "slices", multiple=True, metavar="COLUMN", help="Show the risk by this column, repeatable.")
@click.option("--show-records", is_flag=True, help="Show the content of the most exposed records in the report.")
@click.option("--json", "as_json", is_flag=True, help="Print run id, metrics and artifacts as JSON.")
def audit(
    model_uri: str,
    recipe: Path | None,
    attacks: tuple[str, ...],
    game_options: tuple[str, ...],
    slices: tuple[str, ...],
    show_records: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Audit MODEL_URI, such as models:/credit-scorer/3, as mlflow.evaluate(..., evaluators=["privacy_meter"]) does.

    \b
    Examples:
      mlflow-privacy audit models:/credit-scorer/3
      mlflow-privacy audit models:/credit-scorer@champion --num-ref-models 16 --json
      mlflow-privacy audit models:/credit-scorer/3 --train train.csv --holdout test.csv --targets default
      mlflow-privacy audit models:/credit-scorer/3 --game dp --game-option delta=1e-6
    """
    options = {("random_seed" if key == "seed" else key): value for key, value in given.items() if value is not None}
    if attacks:
        options["attacks"] = list(attacks)
    if game_options:
        options["game_options"] = _key_values(game_options)
    if slices:
        options["slices"] = list(slices)
    if show_records:
        options["show_records"] = True
    if recipe is not None:
        options["recipe"] = _read_mapping(recipe)
    with imports_ahead():
        import mlflow.models.evaluation.evaluator_registry  # noqa: F401 (every audit comes to it)

        import mlflow_privacy

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
        from mlflow_privacy.report.text import verdict

        click.echo(f"\n{verdict(one)}")
    _echo_warnings(found)


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


def _read_mapping(path: Path) -> dict[str, Any]:
    """A YAML or JSON file that holds one mapping. Nothing in it is imported or executed."""
    from mlflow_privacy.experiment.yaml_text import parse_yaml

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the recipe {str(path)!r} cannot be read: {error}") from error
    values = parse_yaml(text, name=path.name)
    if not isinstance(values, dict):
        raise ConfigError(f"the recipe {path.name} must be a mapping such as {{optimizer: SGD, epochs: 10}}.")
    return values


@main.command()
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
def compare(
    model_uris: tuple[str, ...], fprs: tuple[float, ...], no_log: bool, output: Path | None, as_json: bool, **given: Any
) -> None:
    """Compare the newest audits of models or versions, each against the first: which gives away more?

    Only what the audits left in MLflow is read. The comparison becomes a run with a page, privacy/compare.html.

    \b
    Examples:
      mlflow-privacy compare models:/credit-scorer/1 models:/credit-scorer/2
      mlflow-privacy compare models:/credit-scorer@champion models:/credit-scorer/7 --output compare.html --no-log
    """
    from mlflow_privacy.decide.compare import compare as compare_models
    from mlflow_privacy.decide.compare_text import comparison_lines

    options = {**given, "fprs": fprs} if fprs else given
    result = compare_models(model_uris, log=not no_log, **options)
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


@main.command()
@click.argument("model_uri")
@click.option(
    "--max",
    "limits",
    multiple=True,
    metavar="ATTACK/METRIC=LIMIT",
    help='Largest value that passes, repeatable: "rmia/tpr_at_fpr_0.01=0.05".',
)
@click.option("--policy", type=click.Path(path_type=Path), help="YAML file of rules; see docs/gate.md.")
@click.option(
    "--upper", is_flag=True, help="Of --max: compare the upper end of the interval, pass only what is surely below."
)
@click.option("--allow-weak", is_flag=True, help="Of --max: let an audit without reference models pass.")
@click.option("--run-id", help="Of the audit to read. Default: the newest audit of the model.")
@click.option(
    "--tag", is_flag=True, help="Write the policy's verdict on the model version: privacy.gate = pass or fail."
)
def gate(
    model_uri: str,
    limits: tuple[str, ...],
    policy: Path | None,
    upper: bool,
    allow_weak: bool,
    run_id: str | None,
    tag: bool,
) -> None:
    """Exit with 1 and a line per breach if an audit of MODEL_URI found more than is allowed, else with 0.

    Exit code 2 means that the question could not be answered: no audit, an unknown metric, a malformed limit or policy.

    \b
    Examples:
      mlflow-privacy gate models:/credit-scorer/3 --max rmia/auc=0.6
      mlflow-privacy gate models:/credit-scorer/3 --max "rmia/tpr_at_fpr_0.01=0.05" --upper
      mlflow-privacy gate models:/credit-scorer/3 --policy privacy_policy.yaml --tag
    """
    wanted = _limits(limits)
    if policy is None and not wanted:
        raise click.UsageError("Give --policy FILE or at least one --max ATTACK/METRIC=LIMIT.")
    if tag and (policy is None or wanted):
        raise click.UsageError("--tag records the verdict of a policy: give --policy FILE, and no --max beside it.")
    breaches: list[Any] = []
    passed: list[str] = []
    if policy is not None:
        breaches += _policy_breaches(model_uri, policy, run_id, tag)
        passed.append(f"policy {policy.name}")
    if wanted:
        from mlflow_privacy.decide.gate import check_gate

        breaches += check_gate(_audit_metrics(model_uri, run_id), wanted, upper=upper, allow_weak=allow_weak)
        end = "the upper end of its interval" if upper else "its value"
        passed.append(f"{', '.join(f'{name} <= {limit:g}' for name, limit in wanted.items())} by {end}")
    for breach in breaches:
        click.echo(breach.line)
    if breaches:
        sys.exit(EXIT_BREACH)
    click.echo(f"{model_uri} passes: {'; '.join(passed)}.")


def _audit_metrics(model_uri: str, run_id: str | None) -> dict[str, float]:
    from mlflow_privacy.decide.gate import latest_metrics

    if run_id is None:
        return latest_metrics(model_uri)
    import mlflow

    return dict(mlflow.MlflowClient().get_run(run_id).data.metrics)


def _policy_breaches(model_uri: str, path: Path, run_id: str | None, tag: bool) -> tuple[Any, ...]:
    """What breaks the policy; tagged on the model if asked."""
    from mlflow_privacy.decide.policy import load_policy

    rules = load_policy(path)
    from mlflow_privacy.decide.gate import check_policy, read_facts, tag_verdict

    metrics, facts = read_facts(model_uri, run_id=run_id)
    breaches = check_policy(metrics, rules, facts=facts)
    if tag:
        tag_verdict(model_uri, passed=not breaches, policy=rules, run_id=facts.run_id)
    return breaches


def _limits(texts: tuple[str, ...]) -> dict[str, float]:
    """{"rmia/auc": 0.6} of ["rmia/auc=0.6"]; all faults at once."""
    from mlflow_privacy.decide.gate import parse_limit

    limits: dict[str, float] = {}
    faults = []
    for text in texts:
        try:
            name, limit = parse_limit(text)
        except ConfigError as error:
            faults.append(str(error))
            continue
        if name in limits:
            faults.append(f"--max gives {name} twice.")
        limits[name] = limit
    if faults:
        raise ConfigError("\n".join(faults))
    return limits


@main.command("import")
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
def import_command(log_dir: Path, **given: Any) -> None:
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


@main.command("config")
def config_keys() -> None:
    """List every key of a config file with its default and meaning, as Markdown."""
    from mlflow_privacy.experiment.sections import config_reference

    click.echo(config_reference(), nl=False)


@main.command()
def attacks() -> None:
    """List the attacks with their threat models."""
    from mlflow_privacy.attacks import ATTACKS

    for name in ATTACKS:
        try:
            attack = ATTACKS[name]
        except ConfigError as error:  # one package that is broken hides none of the others
            click.echo(f"{name}: {error}\n")
            continue
        click.echo(f"{name}: {attack.title}")
        click.echo(click.wrap_text(attack.threat_model, 100, "    ", "    "))
        options = ", ".join(f"{key}={value!r}" for key, value in attack.options.items())
        click.echo(f"    options: {options or 'none'}")
        click.echo(f"    {attack.paper}\n")


if __name__ == "__main__":
    main()
