"""`edgeswarm fleet`: make a fleet, run its controller, and manage it."""

from __future__ import annotations

import click

from edgeswarm.app.cli.root import CONTEXT_SETTINGS, LazyGroup

# command -> (module below edgeswarm.app.cli, attribute, one line of help)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "abort": ("fleet_rollout", "abort", "End a rollout where it is."),
    "alerts": ("fleet_events", "alerts", "Show what somebody should look at, or say that somebody has."),
    "approve": ("fleet_token", "approve", "Let a device in that waits."),
    "backup": ("fleet_backup", "backup", "Write an encrypted backup of keys and controller."),
    "broker": ("fleet_broker", "broker", "Run the fleet's broker, write its configuration, prove what it refuses."),
    "deny": ("fleet_token", "deny", "Turn a device away that waits."),
    "deploy": ("fleet_rollout", "deploy", "Roll an agent file out to many devices, in waves."),
    "desired": ("fleet_devices", "desired", "Show what a device is wanted to run."),
    "devices": ("fleet_devices", "devices", "List the devices: all, or those that a selector names."),
    "events": ("fleet_events", "events", "Show what happened, and follow it."),
    "home-assistant": (
        "fleet_home_assistant",
        "home_assistant",
        "Show the fleet to a Home Assistant.",
    ),
    "init": ("fleet_init", "init", "Make a fleet: keys, certificates, broker configuration, first operator."),
    "kick": ("fleet_revoke", "kick", "End a device's sessions at the broker."),
    "labels": ("fleet_devices", "labels", "Show or change the labels of a device."),
    "logs": ("fleet_events", "logs", "Show what a device logged, asked of it now."),
    "operator": ("fleet_operator", "operator", "Appoint operators, and give them the kit to work from elsewhere."),
    "pause": ("fleet_rollout", "pause", "Hold a rollout: no further wave."),
    "pending": ("fleet_token", "pending", "List the devices that wait for a person."),
    "reported": ("fleet_devices", "reported", "Show what a device has, and how that differs from what is wanted."),
    "restore": ("fleet_backup", "restore", "Bring a fleet's keys and controller back from a backup."),
    "resume": ("fleet_rollout", "resume", "Let a rollout that was paused go on."),
    "revoke": ("fleet_revoke", "revoke", "Throw a device out: peers, broker and sessions, within seconds."),
    "rollback": ("fleet_rollout", "rollback", "Take a rollout back, on every device."),
    "rollouts": ("fleet_rollout", "rollouts", "List the rollouts, or show how far one is."),
    "rotate": ("fleet_rotate", "rotate", "Replace the key of the operator, the issuer or the root."),
    "serve": ("fleet_init", "serve", "Run the controller: issuer, artefacts, waves, index."),
    "show": ("fleet_devices", "show", "Show everything about one device."),
    "status": ("fleet_init", "status", "Show the fleet: its cell, leader, roster."),
    "support-bundle": (
        "fleet_support",
        "support_bundle",
        "Write one file for who helps from afar; no secret is in it.",
    ),
    "token": ("fleet_token", "token", "Make, list and revoke the tokens that devices join with."),
    "top": ("fleet_devices", "top", "Watch the fleet live."),
}


@click.command(cls=LazyGroup, table=COMMANDS, context_settings=CONTEXT_SETTINGS)
def fleet() -> None:
    """Make a fleet, run its controller, and manage it: tokens, devices, rollouts.

    \b
    Examples:
      edgeswarm fleet init --name plant-7 --host broker.plant-7.example
      edgeswarm fleet serve
    """
