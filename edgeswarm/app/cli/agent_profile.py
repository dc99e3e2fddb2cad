"""`edgeswarm agent profile`: where the time of a model goes, layer by layer and step by step, also as a flame graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeswarm.app.cli import agent_graph, agent_opened, common, flame, output

if TYPE_CHECKING:
    from edgeswarm.compile.layer_times import LayerTimes


@click.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="X.af")
@click.option("--seconds", type=click.FloatRange(0.05, 600), default=2.0, show_default=True, help="To measure for.")
@click.option("-i", "--input", "source", metavar="FILE", help="Rows to take one of. Default: the first golden row.")
@click.option("--row", type=click.IntRange(1), default=1, show_default=True, help="Which row of FILE.")
@click.option("-o", "--output", "out", type=click.Path(path_type=Path, dir_okay=False), help="Flame graph: X.svg.")
@output.json_option
def profile(file: Path, seconds: float, source: str | None, row: int, out: Path | None, as_json: bool) -> None:
    """Measure each layer of a model: time, share, MACs a second; -o draws a flame graph.

    The kernel is made anew from the file, run in this process one step after the other, and each step timed where it
    stands (so with the caches of a run); medians of many rounds, and half the distance of their quartiles.

    \b
    Examples:
      edgeswarm agent profile kws.af
      edgeswarm agent profile kws.af -o kws.svg --seconds 10
      edgeswarm agent profile kws.af --json | jq '.layers | max_by(.time_us)'
    """
    from edgeswarm.compile.layer_times import measure

    looked = agent_opened.look(file)
    values = looked.rows(source, row, 1)[0]
    times = measure(looked.opened, values, seconds=seconds, deadline_s=seconds + agent_opened.DEADLINE_S)
    found = {"path": str(file)} | agent_opened.facts(looked, times) | {"same_code": looked.same_code()}
    for layer, steps in zip(found["layers"], times.steps, strict=True):
        layer["share"] = round(layer["time_us"] / found["layers_us"], 4) if found["layers_us"] else 0.0
        layer["steps"] = [
            {
                "step": step.step,
                "time_us": round(step.time.median_ns / 1e3, 3),
                "noise_us": round(step.time.noise_ns / 1e3, 3),
            }
            for step in steps
        ]
    if out is not None:
        common.write_file(out, flame_of(found, times).encode())
        found["flame_graph"] = str(out)
    output.emit(found, as_json=as_json, text=lambda: _text(found))


def flame_of(found: dict[str, Any], times: LayerTimes) -> str:
    """The flame graph: the run, on it the layers in their order, on them the steps of those that have several."""
    frames = []
    for layer, own, steps in zip(found["layers"], times.layers, times.steps, strict=True):
        parts = [
            flame.Frame(step.step, step.time.median_ns, layer["operator"], _us(step.time.median_ns)) for step in steps
        ]
        wide = max(own.median_ns, sum(part.value for part in parts))
        shape = agent_opened.shape_of(layer["writes"])
        text = f"{layer['layer']} {layer['described']} → {shape}"
        frames.append(flame.Frame(text, wide, layer["operator"], _us(own.median_ns), parts if len(parts) > 1 else ()))
    whole = sum(frame.value for frame in frames)
    root = flame.Frame(f"one run of {found['agent']}", whole, "run", _us(whole), frames)
    subtitle = (
        f"{found['macs']:,} MACs; medians of {times.rounds} rounds, step by step; one run at once takes "
        f"{agent_opened.time_text(found['run_us'], found['run_noise_us'])} µs"
    )
    return flame.svg(f"agent {found['agent']}: time of each layer", subtitle, root)


def _us(time_ns: float) -> str:
    return f"{time_ns / 1e3:,.2f} µs"


def _text(found: dict[str, Any]) -> str:
    header = ("layer", "operator", "writes", "µs", "share", "MACs", "GMAC/s")
    cells = []
    for layer in found["layers"]:
        rate = f"{layer['macs'] / layer['time_us'] / 1e3:.2f}" if layer["macs"] and layer["time_us"] else "-"
        cells.append(
            (
                layer["layer"],
                layer["described"],
                agent_opened.shape_of(layer["writes"]),
                agent_opened.layer_time(layer),
                f"{100 * layer['share']:.1f} %",
                f"{layer['macs']:,}",
                rate,
            )
        )
    rate = f"{found['macs'] / found['run_us'] / 1e3:.2f}" if found["run_us"] else "-"
    lines = [agent_opened.head(found), "", output.table(header, cells, right=(0, 3, 4, 5, 6)), ""]
    lines += [f"{agent_graph.run_text(found)}; {rate} GMAC/s", *agent_graph.other_code(found)]
    if "flame_graph" in found:
        lines.append(f"flame graph: {output.plain(found['flame_graph'])}")
    return "\n".join(lines)
