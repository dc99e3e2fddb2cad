"""`edgeswarm fleet`: make a fleet, run its controller, and manage it."""

from __future__ import annotations

import click

from edgeswarm.app.cli.root import CONTEXT_SETTINGS, LazyGroup

# command -> (module below edgeswarm.app.cli, attribute, one line of help)
COMMANDS: dict[str, tuple[str, str, str]] = {}


@click.command(cls=LazyGroup, table=COMMANDS, context_settings=CONTEXT_SETTINGS)
def fleet() -> None:
    """Make a fleet, run its controller, and manage it: tokens, devices, rollouts.

    \b
    Examples:
      edgeswarm fleet init --name plant-7 --host broker.plant-7.example
      edgeswarm fleet serve
    """
