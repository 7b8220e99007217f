"""`mlflow-privacy attacks`: the attacks that there are."""

from __future__ import annotations

import click

from mlflow_privacy.errors import ConfigError


@click.command("attacks")
def command() -> None:
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
