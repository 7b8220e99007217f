"""The command line: `mlflow-privacy run | audit | import | compare | gate | config | attacks`.

Heavy imports wait until a command needs them.
"""

from __future__ import annotations

import importlib
import logging
import sys
import traceback
from typing import Any

import click

from mlflow_privacy._version import __version__
from mlflow_privacy.cli.start import collect_less, set_logs
from mlflow_privacy.errors import PrivacyAuditError

EXIT_ERROR = 2
# The module of each command, which has it as `command`; loaded when it is called or listed.
COMMANDS = {
    "attacks": "mlflow_privacy.cli.attacks",
    "audit": "mlflow_privacy.cli.audit",
    "compare": "mlflow_privacy.cli.compare",
    "config": "mlflow_privacy.cli.config",
    "gate": "mlflow_privacy.cli.gate",
    "import": "mlflow_privacy.cli.import_",
    "run": "mlflow_privacy.cli.run",
}


class _Failure(click.ClickException):
    exit_code = EXIT_ERROR


class _Group(click.Group):
    """Errors made on purpose are one clean line and exit code 2; 1 is kept for a gate's breach."""

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return importlib.import_module(COMMANDS[name]).command if name in COMMANDS else None

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


@click.group(
    cls=_Group,
    commands=COMMANDS,  # for their names; the commands themselves come from `_Group.get_command`
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="mlflow-privacy")
@click.option("--debug", is_flag=True, help="Show tracebacks and debug messages.")
@click.option("-v", "--verbose", is_flag=True, help="Debug messages, too.")
@click.option("-q", "--quiet", is_flag=True, help="No progress: warnings and the result alone.")
@click.pass_context
def main(ctx: click.Context, debug: bool, verbose: bool, quiet: bool) -> None:
    """Audit the privacy of registered MLflow models with membership inference.

    The tracking server is MLflow's own: set MLFLOW_TRACKING_URI, or use the default store in the working directory.
    """
    if ctx.invoked_subcommand not in ("attacks", "config"):
        set_logs(logging.DEBUG if debug or verbose else logging.WARNING if quiet else logging.INFO)
    collect_less()
