"""`edgeswarm agent debug`: a kernel held against its model layer by layer, and its tensors on disk.

Each layer is judged by what it itself read (`compile.layer_errors`), so the first that diverges is the one at fault.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeswarm.app.cli import agent_graph, agent_opened, common, output
from edgeswarm.errors import KernelError, LimitError, LocalError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeswarm.app.cli.agent_opened import Looked
    from edgeswarm.compile.layer_errors import LayerError

ROWS = 16
VALUES_SHOWN = 12
VALUES_MAX = 1 << 26  # of all tensors of a row, in float64 and as the kernel has it: 1 GiB with its definition


@click.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="X.af")
@click.option("-i", "--input", "source", metavar="FILE", help="Rows to compute. Default: the golden rows.")
@click.option("--row", type=click.IntRange(1), help=f"Only this row. Default: the first {ROWS}.")
@click.option(
    "--layer", type=click.IntRange(0), multiple=True, help="Show this layer's values; may be given repeatedly."
)
@click.option("-o", "--output", "out", type=click.Path(path_type=Path, dir_okay=False), help="Dump tensors: X.npz.")
@click.option(
    "--tolerance", type=click.FloatRange(0, 1), help="Of floats, relative to the layer's greatest value. Default: 1e-5."
)
@output.json_option
def debug(
    file: Path,
    source: str | None,
    row: int | None,
    layer: tuple[int, ...],
    out: Path | None,
    tolerance: float | None,
    as_json: bool,
) -> int:
    """Compare a kernel with its model's definition (float64, or whole numbers) layer by layer; name the first that
    diverges.  Ends with 3 if one does.

    error: the largest difference from what the layer's own inputs give; drift: from the definition computed from the
    model's input on.  -o writes the tensors of --layer (else of all layers) for the row where the first divergent layer
    is worst (else the first row): as the kernel has them, and as the definition has them for the same inputs.

    \b
    Examples:
      edgeswarm agent debug kws.af
      edgeswarm agent debug kws.af --input rows.npy --row 3 --layer 4
      edgeswarm agent debug kws.af --layer 0 --layer 1 -o tensors.npz
    """
    from edgeswarm.compile import layer_errors

    looked = agent_opened.look(file)
    count = len(looked.opened.graph.nodes)
    if (values := sum(tensor.size for tensor in looked.opened.graph.tensors)) > VALUES_MAX:
        raise LimitError(f"tensors: at most {VALUES_MAX} values of a row are held side by side, found {values}")
    if wrong := [number for number in layer if number >= count]:
        raise LocalError(f"--layer {wrong[0]}: expected 0 to {count - 1}")
    first = row or 1
    rows = looked.rows(source, first, 1 if row else ROWS)
    relative = layer_errors.RELATIVE if tolerance is None else tolerance
    tried = [_errors(looked, values, relative) for values in rows]
    worst = [max((errors[index] for errors in tried), key=_badness) for index in range(count)]
    divergent = layer_errors.first_divergent(worst)
    at = 0 if divergent is None else next(i for i, errors in enumerate(tried) if errors[divergent.node] is divergent)
    found = _facts(looked, worst, divergent) | {"path": str(file), "rows": len(rows), "shown_row": first + at}
    if layer or out is not None:
        traced = looked.opened.trace(rows[at], deadline_s=agent_opened.DEADLINE_S)
        expected = [layer_errors.expected(looked.opened.graph, index, traced) for index in range(count)]
        found["values"] = [_values(looked, number, traced, expected) for number in layer]
        if out is not None:
            common.write_file(out, _dump(looked, layer or tuple(range(count)), traced, expected))
            found["dump"] = str(out)
    output.emit(found, as_json=as_json, text=lambda: _text(found))
    return 0 if divergent is None else KernelError.exit_code


def _errors(looked: Looked, values: NDArray[Any], relative: float) -> list[LayerError]:
    from edgeswarm.compile.layer_errors import compare

    traced = looked.opened.trace(values, deadline_s=agent_opened.DEADLINE_S)
    return compare(looked.opened.graph, values, traced, relative=relative)


def _badness(error: LayerError) -> tuple[bool, float]:
    return error.diverges, error.error - error.allowed


def _facts(looked: Looked, worst: list[LayerError], divergent: LayerError | None) -> dict[str, Any]:
    from edgeswarm.model.costs import described

    graph = looked.opened.graph
    layers = [
        {
            "layer": error.node,
            "described": described(graph.nodes[error.node]),
            "tensor": graph.nodes[error.node].output,
            "dtype": graph.tensors[graph.nodes[error.node].output].dtype,
            "shape": list(graph.tensors[graph.nodes[error.node].output].shape),
            "error": error.error,
            "allowed": error.allowed,
            "at": list(error.at),
            "expected": error.expected,
            "found": error.found,
            "drift": error.drift,
            "diverges": error.diverges,
        }
        for error in worst
    ]
    return {
        "agent": looked.name,
        "layers": layers,
        "first_divergent": None if divergent is None else divergent.node,
        "same_code": looked.same_code(),
    }


def _values(looked: Looked, number: int, traced: list[NDArray[Any]], expected: list[NDArray[Any]]) -> dict[str, Any]:
    found = traced[looked.opened.graph.nodes[number].output]
    return {
        "layer": number,
        "least": float(found.min()),
        "greatest": float(found.max()),
        "mean": float(found.mean()),
        "found": found.reshape(-1)[:VALUES_SHOWN].tolist(),
        "expected": expected[number].reshape(-1)[:VALUES_SHOWN].tolist(),
    }


def _dump(looked: Looked, layers: tuple[int, ...], traced: list[NDArray[Any]], expected: list[NDArray[Any]]) -> bytes:
    """An .npz: `input`, and of each layer `layer_3_conv2d` and `layer_3_conv2d_expected`."""
    import numpy as np

    graph = looked.opened.graph
    arrays = {"input": traced[graph.input]}
    for number in layers:
        name = f"layer_{number}_{graph.nodes[number].op}"
        arrays[name] = traced[graph.nodes[number].output]
        arrays[f"{name}_expected"] = expected[number]
    room = io.BytesIO()
    np.savez(room, **arrays)  # type: ignore[arg-type]  # its flags have other names
    return room.getvalue()


def _text(found: dict[str, Any]) -> str:
    header = ("layer", "operator", "writes", "error", "allowed", "drift", "at", "")
    cells = [
        (
            layer["layer"],
            layer["described"],
            agent_opened.shape_of(layer),
            f"{layer['error']:.3g}",
            f"{layer['allowed']:.3g}",
            f"{layer['drift']:.3g}",
            ",".join(map(str, layer["at"])),
            "DIVERGES" if layer["diverges"] else "ok",
        )
        for layer in found["layers"]
    ]
    lines = [output.table(header, cells, right=(0, 3, 4, 5)), ""]
    for one in found.get("values", []):
        lines.append(
            f"layer {one['layer']}, row {found['shown_row']}: {one['least']:.6g} to {one['greatest']:.6g}, "
            f"mean {one['mean']:.6g}"
        )
        lines.append(f"  found     {' '.join(f'{value:.6g}' for value in one['found'])}")
        lines.append(f"  expected  {' '.join(f'{value:.6g}' for value in one['expected'])}")
    lines += agent_graph.other_code(found)
    if "dump" in found:
        lines.append(f"tensors of row {found['shown_row']}: {output.plain(found['dump'])}")
    return "\n".join([*lines, _verdict(found)])


def _verdict(found: dict[str, Any]) -> str:
    rows = f"{found['rows']} row{'s' if found['rows'] > 1 else ''}"
    if found["first_divergent"] is None:
        return f"no layer diverges on {rows}"
    bad = found["layers"][found["first_divergent"]]
    where = ",".join(map(str, bad["at"]))
    return (
        f"the first layer that diverges on {rows}: {bad['layer']} ({bad['described']}), value {where}: "
        f"expected {bad['expected']:.9g}, found {bad['found']:.9g}"
    )
