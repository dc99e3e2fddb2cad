"""`edgeswarm sandbox diagnose`: which system call an agent's jail is ended for."""

from __future__ import annotations

from pathlib import Path

import click

from edgeswarm.app.cli import jailed, output
from edgeswarm.app.cli.agent_run import bench_input

_ROWS = 64


@click.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="X.af")
@output.state_option
@output.config_option
@output.json_option
def diagnose(file: Path, state: Path | None, config_file: Path | None, as_json: bool) -> int:
    """Find out which system call an agent is quarantined for.

    Runs the agent's golden rows, else made-up ones, in a jail like any other, but that its seccomp filters say which
    call it was where they end the process otherwise; the call is not made. No supervisor ever does this.

    Ends with 7 when there was a forbidden call.

    \b
    Examples:
      edgeswarm sandbox diagnose suspect.af
      edgeswarm sandbox diagnose suspect.af --json
    """
    from edgeswarm.drivers.jail_diagnose import diagnose as run
    from edgeswarm.drivers.jail_sync import SyncHost
    from edgeswarm.errors import JailError

    agent, layout = jailed.read_runnable(file, state, config_file)
    arguments = jailed.host_arguments(state, config_file)
    with SyncHost(**arguments) as host:
        code = host.compile(agent.section("wasm_kernel"))
    width = 4 * layout.input.width
    inputs = bench_input(agent, layout.input.width, _ROWS)
    rows = [inputs[at : at + width] for at in range(0, len(inputs), width)]
    found = run(jailed.spec_of(agent, layout, code), rows, policy_name=agent.header.sandbox, **arguments)
    when = "while it computed" if found.ready else "before it was ready"
    text = (
        f"agent {agent.header.name}: forbidden system call {found.call} (number {found.number}), {when}"
        if found.call
        else f"agent {agent.header.name}: no forbidden system call; {found.text}"
    )
    row = {
        "agent": agent.header.name,
        "call": found.call or None,
        "number": found.number if found.call else None,
        "ready": found.ready,
        "rows": found.rows,
        "faults": found.faults,
        "text": found.text,
    }
    output.emit(row, as_json=as_json, text=lambda: text)
    return JailError.exit_code if found.call else 0
