"""`mlflow-privacy run`: a whole experiment from a config file."""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path

import click

from mlflow_privacy.cli.start import imports_ahead, verbosity
from mlflow_privacy.errors import ConfigError


@click.command("run")
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
@verbosity
def command(config: Path, device: str, seed: str, overrides: tuple[str, ...], directory: Path | None) -> None:
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

    from mlflow_privacy.store.places import how_to_serve, page

    uri = mlflow.get_tracking_uri()
    addresses = f"see {page(uri, f'models/{name}')} and {page(uri, f'experiments/{experiment_id}')}"
    start = how_to_serve(uri)
    return f"{start}\nthen {addresses}" if start else f"S{addresses[1:]}"
