"""An agent file's model opened up on the operator's machine: for `agent show --graph`, `profile` and `debug`.

The kernel is made anew from the file's model and weights, with its steps to be called one by one; `same_code` says
whether this version of the compiler still makes the very kernel that is in the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeswarm.app.cli import common, output, tables
from edgeswarm.errors import InputError, ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeswarm.agentfile import AgentFile
    from edgeswarm.compile import Layout
    from edgeswarm.compile.layer_times import LayerTimes
    from edgeswarm.compile.opened import Opened
    from edgeswarm.model.graph import Graph

DEADLINE_S = 60.0
"""Of a command's computing, beside the seconds that it was asked to measure: a model from a stranger may be slow."""
ROW_SEED = 1


@dataclass(frozen=True, slots=True)
class Looked:
    """An agent file and its model, opened."""

    file: AgentFile
    opened: Opened

    @property
    def name(self) -> str:
        return self.file.header.name

    def same_code(self) -> bool:
        """Never of a model of `agent build --quantize`: its kernel computes all layers in one piece."""
        return self.opened.kernel().wasm == self.file.section("wasm_kernel")

    def golden_row(self) -> NDArray[Any]:
        """The file's first golden row, else numbers between -1 and 1."""
        import numpy as np

        from edgeswarm.model import random_rows

        width, golden = self.opened.layout.input.width, self.file.sections.get("golden", b"")
        if len(golden) >= 4 * width:
            return np.frombuffer(golden, "<f4", width)
        made: NDArray[Any] = random_rows(1, width, ROW_SEED)[0]
        return made

    def rows(self, source: str | None, first: int, count: int) -> NDArray[Any]:
        """At most `count` rows from number `first` (from 1) on: of a file, else the golden ones.  Raises InputError."""
        import numpy as np

        width, golden = self.opened.layout.input.width, self.file.sections.get("golden", b"")
        if source is None:
            whole = np.frombuffer(golden, "<f4").reshape(-1, width + self.opened.layout.output.width)[:, :width]
            found = whole if len(whole) else self.golden_row()[None]
        else:
            with tables.open_rows(source, width=width) as reader:
                data = b"".join(_parts(reader, 4 * width * (first - 1 + count)))
            found = np.frombuffer(data, "<f4").reshape(-1, width)
        if len(found) < first:
            raise InputError(f"expected a row {first}, found {len(found)} rows", who=source or self.file.who)
        chosen: NDArray[Any] = found[first - 1 : first - 1 + count].copy()
        return chosen


def _parts(reader: tables.RowReader, enough: int) -> Iterator[bytes]:
    for batch in reader.batches(256):
        yield batch.payload
        enough -= len(batch.payload)
        if enough <= 0:
            return


def look(path: Path) -> Looked:
    """Raises AgentFileError, ModelError for a file without a model (or with one that its kernel is not of)."""
    from edgeswarm import agentfile
    from edgeswarm.app.shelf import check_kernel
    from edgeswarm.compile.kernel import ARCH_DEFAULT
    from edgeswarm.compile.opened import Opened

    wanted = ["neural_weights", "wasm_kernel", "model", "golden"]
    file = agentfile.read(common.read_agent_file(path), who=str(path), wanted=wanted)
    layout = check_kernel(file, who=str(path))
    graph = graph_of_file(file)
    widths = graph.tensors[graph.input].size, graph.tensors[graph.output].size
    if widths != (layout.input.width, layout.output.width):  # a layout can name any model as its own
        raise ModelError(
            f"expected a model of {layout.input.width} inputs and {layout.output.width} outputs, as its kernel has, "
            f"found {widths[0]} and {widths[1]}",
            who=str(path),
        )
    mode, in_one_piece = (
        "deterministic" if layout.deterministic else "fast",
        file.header.kernel.quantization is not None,
    )
    arch = ARCH_DEFAULT if in_one_piece else _arch(graph, layout, str(path))
    return Looked(file, Opened(graph, batch_max=layout.batch_max, mode=mode, arch=arch))


def graph_of_file(file: AgentFile) -> Graph:
    """The model in an agent file, as a graph.  Raises ModelError where it has none that can be read."""
    from edgeswarm.compile import unpack_graph, unpack_weights
    from edgeswarm.model.graph import graph_of
    from edgeswarm.model.structure import outline_of

    net = file.header.neural_config
    if net.network_type == "graph":
        return unpack_graph(file.section("neural_weights"), outline_of(file.section("model")))
    if net.network_type != "feedforward" or "neural_weights" not in file.sections:
        raise ModelError(
            f"expected a model that this compiler knows, found network_type {net.network_type} with code of its own",
            who=file.who,
        )
    weights, sizes = file.section("neural_weights"), (net.input_size, *net.hidden_layers, net.output_size)
    names = (*[net.activation_function] * len(net.hidden_layers), net.output_activation)
    if file.header.kernel.quantization is not None:
        from edgeswarm.compile.graph_i8 import graph_i8

        return graph_i8(weights, sizes, names, file.header.kernel.quantization.path)
    return graph_of(unpack_weights(weights, sizes, names))


def _arch(graph: Graph, layout: Layout, who: str) -> str:
    from edgeswarm.compile.library import library
    from edgeswarm.compile.schedule import topology_of

    mode = "deterministic" if layout.deterministic else "fast"
    for arch in library().tiles:
        if topology_of(graph, batch_max=layout.batch_max, mode=mode, arch=arch) == layout.topology:
            return arch
    raise ModelError(
        f"expected a kernel made of the file's model, found one of topology {layout.topology[:16]}...: code of "
        "its own, or of another version of EdgeSwarm",
        who=who,
    )


def facts(looked: Looked, times: LayerTimes | None) -> dict[str, Any]:
    """For --json: layers with their costs (and times), and the totals."""
    from edgeswarm.compile.schedule import node_weights
    from edgeswarm.model.costs import cost, described

    graph, opened = looked.opened.graph, looked.opened
    packed, live = [size for _, size in node_weights(graph)], live_bytes(opened)
    layers = []
    for index, node in enumerate(graph.nodes):
        costs = cost(graph, index)
        out = graph.tensors[node.output]
        layer: dict[str, Any] = {
            "layer": index,
            "operator": node.op,
            "described": described(node),
            "reads": [_tensor(graph, tensor) for tensor in node.inputs],
            "writes": _tensor(graph, node.output),
            "macs": costs.macs,
            "parameters": costs.parameters,
            "weights_bytes": packed[index],
            "output_bytes": costs.output_bytes,
            "live_bytes": live[index],
            "computed": index in opened.schedule.owners,
            "scale": out.scale if out.dtype != "f32" else None,
            "zero_point": out.zero_point if out.dtype != "f32" else None,
        }
        if times is not None:
            layer["time_us"] = round(times.layers[index].median_ns / 1e3, 3)
            layer["noise_us"] = round(times.layers[index].noise_ns / 1e3, 3)
        layers.append(layer)
    layout = opened.layout
    row: dict[str, Any] = {
        "agent": looked.name,
        "layers": layers,
        "macs": sum(layer["macs"] for layer in layers),
        "parameters": sum(layer["parameters"] for layer in layers),
        "weights_bytes": layout.weights.size,
        "activation_bytes": opened.schedule.activation_bytes,
        "batch_max": layout.batch_max,
        "kernel_memory_bytes": layout.memory_bytes,
    }
    if times is not None:
        row |= {
            "run_us": round(times.whole.median_ns / 1e3, 3),
            "run_noise_us": round(times.whole.noise_ns / 1e3, 3),
            "layers_us": round(times.sum_ns / 1e3, 3),
            "rounds": times.rounds,
        }
    return row


def live_bytes(opened: Opened) -> list[int]:
    """Of one row: the bytes in which tensors lie that each layer reads, writes, or leaves for a later one."""
    from edgeswarm.model.costs import tensor_bytes

    graph, weights = opened.graph, opened.layout.weights.offset
    written = {node.output: index for index, node in enumerate(graph.nodes)} | {graph.input: -1}
    read = dict(written)
    for index, node in enumerate(graph.nodes):
        read.update(dict.fromkeys(node.inputs, index))
    read[graph.output] = len(graph.nodes)
    found = []
    for index in range(len(graph.nodes)):
        alive = (tensor for tensor in written if written[tensor] <= index <= read[tensor])
        places = sorted(
            (opened.schedule.tensors[tensor].offset, tensor_bytes(graph.tensors[tensor])) for tensor in alive
        )
        total = end = 0
        for offset, size in places:
            if offset < weights:  # a constant lies among the weights
                total += max(0, offset + size - max(offset, end))
                end = max(end, offset + size)
        found.append(total)
    return found


def _tensor(graph: Graph, index: int) -> dict[str, Any]:
    tensor = graph.tensors[index]
    return {"tensor": index, "dtype": tensor.dtype, "shape": list(tensor.shape)}


def shape_of(tensor: dict[str, Any]) -> str:
    """`f32 49x10x8` of a tensor of `facts`."""
    return f"{tensor['dtype']} {'x'.join(map(str, tensor['shape']))}"


def layer_time(layer: dict[str, Any]) -> str:
    """Of a layer of `facts`; a view of another tensor takes no time, and none is measured."""
    return time_text(layer["time_us"], layer["noise_us"]) if layer["computed"] else "-"


def time_text(time_us: float, noise_us: float) -> str:
    """`5.98 ±0.04`, with as many digits as the noise leaves."""
    digits = 3 if time_us < 1 else 2 if time_us < 100 else 1
    return f"{time_us:,.{digits}f} ±{noise_us:.{digits}f}"


def head(row: dict[str, Any]) -> str:
    """What a model is, in a line."""
    count = len(row["layers"])
    layers = f"{count} layer{'s' if count > 1 else ''}"
    weights, memory = output.size(row["weights_bytes"]), output.size(row["kernel_memory_bytes"])
    rows = f"{row['batch_max']} rows" if row["batch_max"] > 1 else "a row"
    peak = f"tensors of {rows} at most {output.size(row['activation_bytes'])}"
    return (
        f"agent {output.plain(row['agent'])}: {layers}, {row['macs']:,} MACs, {row['parameters']:,} parameters; "
        f"weights {weights} as the kernel has them, {peak}, together {memory}"
    )
