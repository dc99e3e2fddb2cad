"""`edgeswarm agent show --graph`: the layers of a model with what each costs, and how long each takes here."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from edgeswarm.app.cli import agent_opened, output

SECONDS = 0.3
"""Of measuring: enough rounds for a median of a model of some ms, and nobody waits for it."""


def show(path: Path, *, as_json: bool) -> None:
    """Print the table.  Raises AgentFileError, ModelError, LimitError for a model that takes too long."""
    from edgeswarm.compile.layer_times import measure

    looked = agent_opened.look(path)
    deadline_s = SECONDS + agent_opened.DEADLINE_S
    times = measure(looked.opened, looked.golden_row(), seconds=SECONDS, deadline_s=deadline_s)
    row = {"path": str(path)} | agent_opened.facts(looked, times) | {"same_code": looked.same_code()}
    output.emit(row, as_json=as_json, text=lambda: _text(row))


def _text(row: dict[str, Any]) -> str:
    header = ("layer", "operator", "reads", "writes", "MACs", "parameters", "bytes out", "in use", "µs")
    cells = [
        (
            layer["layer"],
            layer["described"],
            ", ".join(f"[{tensor['tensor']}] {agent_opened.shape_of(tensor)}" for tensor in layer["reads"]) or "-",
            f"[{layer['writes']['tensor']}] {agent_opened.shape_of(layer['writes'])}",
            f"{layer['macs']:,}",
            f"{layer['parameters']:,}",
            f"{layer['output_bytes']:,}",
            f"{layer['live_bytes']:,}",
            agent_opened.layer_time(layer),
        )
        for layer in row["layers"]
    ]
    lines = [
        agent_opened.head(row),
        "",
        output.table(header, cells, right=(0, 4, 5, 6, 7, 8)),
        "",
        run_text(row),
    ]
    return "\n".join([*lines, *other_code(row)])


def run_text(row: dict[str, Any]) -> str:
    """How long a run takes, beside its layers one by one."""
    run = agent_opened.time_text(row["run_us"], row["run_noise_us"])
    return (
        f"one run: {run} µs in this process, {platform.machine()}, {row['rounds']} rounds; "
        f"the layers one by one: {row['layers_us']:,.2f} µs"
    )


def other_code(row: dict[str, Any]) -> list[str]:
    """A line where the file's kernel is not what was measured."""
    if row["same_code"]:
        return []
    return [
        "the file's kernel is another (an older version's, or `agent build --quantize`): these are its layers alone"
    ]
