"""`mlflow-privacy gate`: an exit code that says whether an audit keeps limits or a policy."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from mlflow_privacy.errors import ConfigError

EXIT_BREACH = 1


@click.command("gate")
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
def command(
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

    from mlflow_privacy.store.results import audit_metrics

    client = mlflow.MlflowClient()
    return audit_metrics(client, client.get_run(run_id))


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
