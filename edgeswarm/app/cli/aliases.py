"""The entry points af-compiler, af-runtime, af-debug and af-profile: other names for commands of `edgeswarm`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from edgeswarm.app.cli import root

DEBUG: dict[str, tuple[str, str, str]] = {
    "show": ("agent_files", "show", "Show what an agent file holds."),
    "verify": ("agent_files", "verify", "Check an agent file: hashes, signature, kernel, golden vectors in a jail."),
}


def compiler() -> NoReturn:
    """af-compiler SRC ...: `edgeswarm agent build`."""
    from edgeswarm.app.cli.agent_build import build

    _end(build, "af-compiler")


def runtime() -> NoReturn:
    """af-runtime X.af --input F --output F: `edgeswarm agent run`; without --input: `edgeswarm run [X.af]...`."""
    _end(runtime_command(sys.argv[1:]), "af-runtime")


def debug() -> NoReturn:
    """af-debug show|verify X.af: `edgeswarm agent show|verify`."""
    _end(debug_command, "af-debug")


def profile() -> NoReturn:
    """af-profile X.af: `edgeswarm agent bench`."""
    from edgeswarm.app.cli.agent_run import bench

    _end(bench, "af-profile")


@click.command(cls=root.LazyGroup, table=DEBUG, context_settings=root.CONTEXT_SETTINGS)
def debug_command() -> None:
    """Look into agent files: `edgeswarm agent show` and `edgeswarm agent verify`."""


def runtime_command(arguments: Sequence[str]) -> click.Command:
    """A file of rows is computed where an input is named, else the supervisor runs."""
    if any(one.startswith("-i") or one.partition("=")[0] == "--input" for one in arguments):
        from edgeswarm.app.cli.agent_run import run as run_file

        return run_file
    from edgeswarm.app.cli.daemon import run

    return run


def _end(command: click.Command, name: str) -> NoReturn:
    command.context_settings = root.CONTEXT_SETTINGS
    sys.exit(root.run(command=command, name=name))
