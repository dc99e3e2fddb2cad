"""The root command: which commands exist, where they live, and how an error becomes an exit code.

A command's module is imported when the command is used, so that `edgeswarm --help` stays below 150 ms.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from edgeswarm.app.cli import output
from edgeswarm.errors import EdgeSwarmError, LocalError, PermissionDeniedError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

CONTEXT_SETTINGS: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 110,
    "auto_envvar_prefix": None,
}
EXTRAS = {"numpy": "build", "sklearn": "examples", "paho": "swarm", "pyseccomp": "seccomp"}
"""Package -> the extra of ours that brings it."""

# command -> (module below edgeswarm.app.cli, attribute, one line of help)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "agent": ("agent", "agent", "Make, look at, run and deploy agent files."),
    "audit": ("audit", "audit", "Show who changed what, and verify that the log of it is whole."),
    "broker": ("broker", "broker", "Run an MQTT broker for this machine or this site."),
    "config": ("config", "config", "Show the settings in force and where each came from."),
    "daemon": ("daemon_group", "daemon", "The supervisor as a service: install, upgrade, status, logs."),
    "demo": ("demo_swarm", "demo", "Run a network across five devices here, break things, count what was lost."),
    "doctor": ("doctor", "doctor", "Try every isolation layer for real and say what this machine can do."),
    "fleet": ("fleet", "fleet", "Make a fleet, run its controller, and manage it: tokens, devices, rollouts."),
    "join": ("join", "join", "Put this device into a fleet."),
    "leave": ("leave", "leave", "Take this device out of its fleet, or reset it."),
    "logs": ("daemon", "logs", "Show what the supervisor logged."),
    "metrics": ("daemon", "metrics", "Print the supervisor's metrics as Prometheus text."),
    "run": ("daemon", "run", "Run the supervisor in the foreground."),
    "sandbox": ("sandbox", "sandbox", "What jails are made of, and whether they hold: policies and probes."),
    "status": ("daemon", "status", "Show the supervisor, its agents and its jails."),
    "swarm": ("swarm", "swarm", "Devices that share a log, elect a leader, and run each other's agents."),
    "top": ("top", "top", "Watch streams, scores and decisions live."),
    "version": ("version", "version", "Print versions of EdgeSwarm and of what it stands on."),
}


class LazyGroup(click.Group):
    """A group whose commands are named in a table and imported when used."""

    def __init__(self, *args: Any, table: dict[str, tuple[str, str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._table:
            return None
        module, attribute, _ = self._table[cmd_name]
        command = getattr(importlib.import_module(f"edgeswarm.app.cli.{module}"), attribute)
        assert isinstance(command, click.Command)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """From the table too: pressing the tab key imports no command."""
        from click.shell_completion import CompletionItem

        found = [
            CompletionItem(name, help=self._table[name][2])
            for name in self.list_commands(ctx)
            if name.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """From the table, so that --help imports no command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._table[name][2]) for name in self.list_commands(ctx)])


@click.command(
    cls=LazyGroup,
    table=COMMANDS,
    context_settings=CONTEXT_SETTINGS,
    epilog="\b\nExamples:\n  edgeswarm doctor                      what can this machine do?\n"
    "  edgeswarm demo                        see everything at work in a minute\n"
    "  edgeswarm agent run X.af --input rows.csv --output out.csv\n"
    "  edgeswarm run &  edgeswarm agent deploy X.af;  edgeswarm top\n\n"
    'Shell completion: eval "$(_EDGESWARM_COMPLETE=bash_source edgeswarm)" (or zsh_source, fish_source)\n\n'
    "Exit codes: docs/cli.md",
)
@click.version_option(package_name="edgeswarm", message="%(prog)s %(version)s")
def root() -> None:
    """EdgeSwarm runs small neural nets as jailed WebAssembly kernels on the device where the data is."""


def run(arguments: Sequence[str] | None = None, *, command: click.Command = root, name: str = "edgeswarm") -> int:
    """Run a command; the process's exit code (docs/cli.md)."""
    wants_json = "--json" in (sys.argv[1:] if arguments is None else arguments)
    try:
        result = command.main(args=arguments, prog_name=name, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.Abort:
        output.error("interrupted", as_json=wants_json, kind="Abort")
        return 130
    except click.ClickException as error:
        if wants_json:
            output.error(error.format_message(), as_json=True, kind=type(error).__name__)
        else:
            error.show()
        return error.exit_code
    except EdgeSwarmError as error:
        return _told(error, wants_json)
    except PermissionError as error:
        return _told(PermissionDeniedError(_os_text(error)), wants_json)
    except OSError as error:
        return _told(EdgeSwarmError(_os_text(error)), wants_json)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        return _told(LocalError(f"this needs {error.name}: pip install 'edgeswarm[{extra}]'"), wants_json)


def _told(error: EdgeSwarmError, wants_json: bool) -> int:
    output.error(str(error), as_json=wants_json, kind=getattr(error, "kind", type(error).__name__))
    return error.exit_code


def _os_text(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)
