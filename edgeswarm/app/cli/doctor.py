"""`edgeswarm doctor`."""

from __future__ import annotations

from dataclasses import asdict

import click

from edgeswarm.app.cli import output


@click.command()
@output.json_option
def doctor(as_json: bool) -> int:
    """Try every isolation layer for real, in children, and say what this machine can do and what to do about the rest.

    Ends with 7 where no agent can run at all.

    \b
    Examples:
      edgeswarm doctor
      edgeswarm doctor --json | jq -r .tier
    """
    from edgeswarm.drivers import doctor as driver
    from edgeswarm.errors import TierError

    report = driver.examine()
    tree = {**asdict(report), "can_run": report.can_run}
    output.emit(tree, as_json=as_json, text=lambda: driver.text(report))
    return 0 if report.can_run else TierError.exit_code
