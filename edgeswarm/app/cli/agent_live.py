"""`edgeswarm agent deploy|list|stop|start|remove|swap`: a running supervisor is asked over its control socket.

Each command prints what became of it; an agent that is refused ends the command with the supervisor's reason and code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeswarm.app.cli import common, output, view

AgentNames = click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=common.complete_agent)


def _print_done(done: list[dict[str, Any]], as_json: bool) -> None:
    output.emit(done, as_json=as_json, text=lambda: "\n".join(map(_sentence, done)))


def _sentence(row: dict[str, Any]) -> str:
    artefact = f" ({row['artefact'][:12]})" if row.get("artefact") else ""
    return output.plain(f"{row['name']}: {row['status']}{artefact}")


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="X.af...")
@output.state_option
@output.config_option
@output.json_option
def deploy(files: tuple[Path, ...], state: Path | None, config_file: Path | None, as_json: bool) -> None:
    """Start agents in the running supervisor; they come back at its next start.

    All files are checked before the first one starts: name those of a network together.  A publisher whose key is not
    in DIR/trust.d is refused (exit code 5).

    \b
    Example:
      edgeswarm agent deploy predictor.af scorer.af fusion.af
    """
    named = [{"who": str(path), "data": common.read_agent_file(path)} for path in files]
    with common.connect(state, config_file) as client:
        done = client.call("deploy", files=named)
        here = client.call("ping")
    if here.get("degraded"):
        output.warn(f"{view.isolation_of(here)}; `edgeswarm doctor --explain` says what that costs and how to get it")
    _print_done(done, as_json)


@click.command("list")
@output.state_option
@output.config_option
@output.json_option
def list_(state: Path | None, config_file: Path | None, as_json: bool) -> None:
    """List the agents of the running supervisor.

    \b
    Examples:
      edgeswarm agent list
      edgeswarm agent list --json | jq -r '.[].name'
    """
    with common.connect(state, config_file) as client:
        agents: list[dict[str, Any]] = client.call("status")["agents"]

    def text() -> str:
        return "\n".join([*view.agents_table(agents), *view.details(agents)]) if agents else "no agents"

    output.emit(agents, as_json=as_json, text=text)


@click.command()
@click.argument("name", shell_complete=common.complete_agent)
@click.argument("file", required=False, type=click.Path(path_type=Path), metavar="[X.af]")
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="X.af",
    help="Take the weights alone out of this file: no compilation, no new jail; the kernel must be the same.",
)
@output.state_option
@output.config_option
@output.json_option
def swap(
    name: str, file: Path | None, weights: Path | None, state: Path | None, config_file: Path | None, as_json: bool
) -> None:
    """Bring the running agent NAME to the version in X.af, or to its weights alone, without losing a sample.

    \b
    Examples:
      edgeswarm agent swap predictor predictor-1.1.0.af
      edgeswarm agent swap predictor --weights predictor-retrained.af
    """
    if (file is None) == (weights is None):
        raise click.UsageError("name one file: X.af for another version, or --weights X.af for its weights alone")
    if file is not None:
        data = common.read_agent_file(file)
        with common.connect(state, config_file) as client:
            done = client.call("swap", name=name, who=str(file), data=data)
    else:
        assert weights is not None
        packed, topology = _weights_of(weights, state, config_file)
        with common.connect(state, config_file) as client:
            done = client.call("weights", name=name, data=packed, topology=topology)
    _print_done([done], as_json)


def _weights_of(path: Path, state: Path | None, config_file: Path | None) -> tuple[bytes, str]:
    """Weights of an agent file whose publisher is trusted here, and their kernel's topology, for the supervisor to
    compare."""
    from edgeswarm import agentfile
    from edgeswarm.compile import read_layout
    from edgeswarm.drivers import keys

    found = agentfile.read(common.read_agent_file(path), who=str(path), wanted=["neural_weights", "wasm_kernel"])
    agentfile.verify(found, keys.trusted(common.settings_of(state, config_file).state_dir / "trust.d"))
    return found.section("neural_weights"), read_layout(found.section("wasm_kernel"), who=str(path)).topology


def _ask_each(op: str, names: tuple[str, ...], state: Path | None, config_file: Path | None, as_json: bool) -> None:
    done: list[dict[str, Any]] = []
    with common.connect(state, config_file) as client:
        try:
            for name in names:
                done.append(client.call(op, name=name))  # what was done before a refusal is said too
        finally:
            if done:
                _print_done(done, as_json)


@click.command()
@AgentNames
@output.state_option
@output.config_option
@output.json_option
def stop(names: tuple[str, ...], state: Path | None, config_file: Path | None, as_json: bool) -> None:
    """Stop agents: what is in flight is answered, a checkpoint is written; they stay stopped over restarts.

    \b
    Example:
      edgeswarm agent stop predictor
    """
    _ask_each("stop", names, state, config_file, as_json)


@click.command()
@AgentNames
@output.state_option
@output.config_option
@output.json_option
def start(names: tuple[str, ...], state: Path | None, config_file: Path | None, as_json: bool) -> None:
    """Start stopped, failed or quarantined agents again, from their last checkpoint.

    \b
    Example:
      edgeswarm agent start predictor
    """
    _ask_each("start", names, state, config_file, as_json)


@click.command()
@AgentNames
@output.state_option
@output.config_option
@output.json_option
def remove(names: tuple[str, ...], state: Path | None, config_file: Path | None, as_json: bool) -> None:
    """Stop agents and forget them, with their checkpoints.

    \b
    Example:
      edgeswarm agent remove predictor scorer
    """
    _ask_each("remove", names, state, config_file, as_json)
