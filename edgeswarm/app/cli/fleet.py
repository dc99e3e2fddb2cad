"""`edgeswarm fleet`: make a fleet, run its controller, and manage it."""

from __future__ import annotations

import click

from edgeswarm.app.cli.root import CONTEXT_SETTINGS, LazyGroup

# command -> (module below edgeswarm.app.cli, attribute, one line of help)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "backup": ("fleet_backup", "backup", "Write an encrypted backup of keys and controller."),
    "broker": ("fleet_broker", "broker", "Run the fleet's broker, write its configuration, prove what it refuses."),
    "init": ("fleet_init", "init", "Make a fleet: keys, certificates, broker configuration, first operator."),
    "operator": ("fleet_operator", "operator", "Appoint operators, and give them the kit to work from elsewhere."),
    "restore": ("fleet_backup", "restore", "Bring a fleet's keys and controller back from a backup."),
    "serve": ("fleet_init", "serve", "Run the controller: issuer, artefacts, waves, index."),
    "status": ("fleet_init", "status", "Show the fleet: its cell, leader, roster."),
}


@click.command(cls=LazyGroup, table=COMMANDS, context_settings=CONTEXT_SETTINGS)
def fleet() -> None:
    """Make a fleet, run its controller, and manage it: tokens, devices, rollouts.

    \b
    Examples:
      edgeswarm fleet init --name plant-7 --host broker.plant-7.example
      edgeswarm fleet serve
    """
