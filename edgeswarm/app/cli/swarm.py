"""`edgeswarm swarm ...`: the table of its commands; each lives in the module named beside it."""

from __future__ import annotations

import click

from edgeswarm.app.cli.root import CONTEXT_SETTINGS, LazyGroup

COMMANDS: dict[str, tuple[str, str, str]] = {
    "check": ("swarm_offline", "check", "Check a voter's log on disk, entry by entry; the device must not run."),
    "init": ("swarm_offline", "init", "Make a throw-away fleet for development: keys, roster, one directory a device."),
    "jobs": ("swarm_jobs", "jobs", "List the jobs of the cell and how far each is."),
    "leader": ("swarm_look", "leader", "Show who leads, and save the certificate that proves it."),
    "log": ("swarm_look", "log_", "Show the audit of the cell and the last entries of its log."),
    "members": ("swarm_look", "members", "List the devices of the cell: role, vote, life, agents."),
    "place": ("swarm_change", "place", "Give agents to the cell: it chooses their devices, and keeps them running."),
    "recover": ("swarm_offline", "recover", "Go on after a quorum of voters is lost for good: deliberate, audited."),
    "remove": ("swarm_change", "remove", "Take agents from the cell."),
    "resume": ("swarm_change", "resume", "End a safety stop."),
    "status": ("swarm_look", "status", "Show this device's part in its cell."),
    "stop": ("swarm_change", "stop", "Safety stop: every device of the cell stops its agents, now."),
    "submit": ("swarm_jobs", "submit", "Submit a job, a graph of tasks, and follow it."),
    "topology": ("swarm_look", "topology", "Show devices, votes and agents as a tree."),
    "transfer": ("swarm_change", "transfer", "Hand leadership over to another voter."),
    "verify-leader": (
        "swarm_offline",
        "verify_leader",
        "Check offline that a certificate proves who leads.",
    ),
    "watch": ("swarm_look", "watch", "Follow what happens in the cell."),
    "whereis": ("swarm_look", "whereis", "Show which device runs an agent."),
}


@click.command(
    cls=LazyGroup,
    table=COMMANDS,
    context_settings=CONTEXT_SETTINGS,
    epilog="\b\nExamples:\n  edgeswarm broker --port 18830 &\n"
    "  edgeswarm swarm init --dev 3 --dir fleet --broker mqtt://127.0.0.1:18830\n"
    "  for d in d1 d2 d3; do edgeswarm run --state fleet/$d & done\n"
    "  edgeswarm swarm members --state fleet/d1\n"
    "  edgeswarm swarm place X.af --state fleet/d1;  edgeswarm swarm whereis X --state fleet/d2",
)
def swarm() -> None:
    """Devices that elect a leader, share a log, and run each other's agents when one dies."""
