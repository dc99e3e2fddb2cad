"""`edgeswarm daemon`: the supervisor as a service of this machine."""

from __future__ import annotations

import click

from edgeswarm.app.cli.root import CONTEXT_SETTINGS, LazyGroup

# command -> (module below edgeswarm.app.cli, attribute, one line of help)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "install": ("daemon_install", "install", "Install the supervisor as a service that starts at boot."),
    "logs": ("daemon_service", "logs", "Show what the service manager kept of the supervisor's log."),
    "restart": ("daemon_service", "restart", "End the supervisor with its jails, and start it again."),
    "status": ("daemon_service", "status", "Show what is installed, and what the service manager says of it."),
    "uninstall": ("daemon_install", "uninstall", "Take away what `install` made; state stays."),
    "upgrade": ("daemon_upgrade", "upgrade", "Become another version; no jail restarts, no sample is lost."),
}


@click.command(cls=LazyGroup, table=COMMANDS, context_settings=CONTEXT_SETTINGS)
def daemon() -> None:
    """The supervisor as a service: systemd, OpenRC, procd (OpenWrt), or a script with a pid file.

    \b
    Examples:
      edgeswarm daemon install --dry-run
      edgeswarm daemon install
      edgeswarm daemon status
    """
