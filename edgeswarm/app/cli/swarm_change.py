"""`edgeswarm swarm place|remove|transfer|stop|resume`: what changes a cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeswarm.app.cli import common, output
from edgeswarm.app.cli.swarm_look import ask, plain_json

KeyOption = click.option(
    "--operator-key",
    "key_path",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The operator's key file: fleet/operator.key of `swarm init --dev`.",
)


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="X.af...")
@click.option("--pin", default="", metavar="DEVICE", help="On this device and no other.")
@click.option("--near", multiple=True, metavar="AGENT", help="Rather on the device of this agent.")
@click.option("--apart", multiple=True, metavar="AGENT", help="Never on the device of this agent.")
@click.option("--runs-alone", is_flag=True, help="Goes on where no leader is heard: a second copy is the lesser evil.")
@output.state_option
@output.config_option
@output.json_option
def place(
    files: tuple[Path, ...],
    pin: str,
    near: tuple[str, ...],
    apart: tuple[str, ...],
    runs_alone: bool,
    state: Path | None,
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Give agents to the cell.  It chooses a device that fits, moves them when it dies, and swaps to a new version
    when the same agent is placed again.

    \b
    Examples:
      edgeswarm swarm place scorer.af fuse.af
      edgeswarm swarm place camera.af --pin gate-1
      edgeswarm swarm place spare.af --apart scorer
    """
    done: list[dict[str, Any]] = []
    with common.connect(state, config_file) as client:
        for path in files:
            data = common.read_agent_file(path)
            options: dict[str, Any] = {"pin": pin, "near": list(near), "apart": list(apart), "runs_alone": runs_alone}
            done.append(client.call("swarm", what="place", data=data, who=str(path), **options))

    def text() -> str:
        return "\n".join(f"{row['agent']}: entry {row['index']}, artefact {row['artefact'][:12]}" for row in done)

    output.emit(plain_json(done), as_json=as_json, text=text)


@click.command()
@click.argument("agents", nargs=-1, required=True)
@output.state_option
@output.config_option
@output.json_option
def remove(agents: tuple[str, ...], state: Path | None, config_file: Path | None, as_json: bool) -> None:
    """Take agents from the cell: they stop wherever they run.

    \b
    Example:
      edgeswarm swarm remove scorer fuse
    """
    done = [ask(state, config_file, "remove", agent=agent) for agent in agents]
    output.emit(done, as_json=as_json, text=lambda: "\n".join(f"{row['agent']}: removed" for row in done))


@click.command()
@click.argument("device")
@output.state_option
@output.config_option
@output.json_option
def transfer(device: str, state: Path | None, config_file: Path | None, as_json: bool) -> None:
    """Hand leadership over to DEVICE, before its host goes down for instance.

    \b
    Example:
      edgeswarm swarm transfer d3
    """
    done = ask(state, config_file, "transfer", to=device)
    output.emit(done, as_json=as_json, text=lambda: f"{done['leader']} leads in term {done['term']}")


def _order(kind: str, reason: str, key_path: Path, state: Path | None, config_file: Path | None) -> dict[str, Any]:
    """Sign an order with the operator's key and have the running device give it to everybody."""
    from edgeswarm.drivers import keys
    from edgeswarm.errors import ConfigError
    from edgeswarm.wire import cose
    from edgeswarm.wire import messages as msg

    if not key_path.exists():
        raise ConfigError(f"operator key {key_path}: no such file")
    key, _ = keys.load_or_make(key_path)
    with common.connect(state, config_file) as client:
        now: dict[str, Any] = client.call("swarm", what="order")
        make = msg.SafetyStop if kind == "stop" else msg.SafetyResume
        order = make(number=now["number"] + 1, reason=reason)
        data = msg.seal_order(
            order, fleet=now["fleet"], cell=now["cell"], public=key.public, sign=cose.signer(key.seed)
        )
        done: dict[str, Any] = client.call("swarm", what="order", data=data)
    return done


@click.command()
@click.option("--reason", required=True, help="Why: it is kept, and shown on every device.")
@KeyOption
@output.state_option
@output.config_option
@output.json_option
def stop(reason: str, key_path: Path, state: Path | None, config_file: Path | None, as_json: bool) -> None:
    """Safety stop: every device of the cell stops its agents, now, and keeps them stopped until `resume`.

    The order is signed with the operator's key and retained by the broker: devices that come later obey it too.

    \b
    Example:
      edgeswarm swarm stop --reason "arm 3 moves by itself" --operator-key fleet/fleet/operator.key
    """
    done = _order("stop", reason, key_path, state, config_file)
    output.emit(done, as_json=as_json, text=lambda: f"stopped, order {done['number']}")


@click.command()
@click.option("--reason", required=True, help="Why it is safe again.")
@KeyOption
@output.state_option
@output.config_option
@output.json_option
def resume(reason: str, key_path: Path, state: Path | None, config_file: Path | None, as_json: bool) -> None:
    """End a safety stop: what was placed runs again.

    \b
    Example:
      edgeswarm swarm resume --reason "arm 3 mended" --operator-key fleet/fleet/operator.key
    """
    done = _order("resume", reason, key_path, state, config_file)
    output.emit(done, as_json=as_json, text=lambda: f"resumed, order {done['number']}")
