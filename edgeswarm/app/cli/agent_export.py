"""`edgeswarm agent export`: the model of an agent file as a file of another program's; now FANN's `.net`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeswarm.app.cli import common, output
from edgeswarm.errors import ModelError

if TYPE_CHECKING:
    from edgeswarm.agentfile import AgentFile
    from edgeswarm.model import Dense

LIBFANN_OPS = ("dense_fann", "sparse_fann")


@click.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="X.af")
@click.option("-o", "--output", "out", type=click.Path(path_type=Path, dir_okay=False), help="Default: NAME.net here.")
@click.option("--original", is_flag=True, help="The file as it was imported, whatever became of the weights.")
@click.option("--new", is_flag=True, help="A new layered net, though the agent came from a .net file.")
@output.json_option
def export(file: Path, out: Path | None, original: bool, new: bool, as_json: bool) -> None:
    """Write the model of X.af as a FANN .net file that libfann 2.2 loads.

    An agent that was imported from a .net gives that file back byte for byte while its weights are what they were;
    with other weights, the file with those.  Any other feedforward agent becomes a new layered net.

    \b
    Examples:
      edgeswarm agent export thyroid.af -o thyroid.net
      edgeswarm agent export trained.af --new
    """
    from edgeswarm import agentfile

    if original and new:
        raise click.UsageError("--original and --new contradict each other")
    found = agentfile.read(common.read_agent_file(file), who=str(file))
    if "fann" in found.sections and not new:
        data, how, changed = _as_imported(found, original)
    elif original:
        raise ModelError("section fann: expected one, found none: it was not imported from a .net file", who=str(file))
    else:
        data, how, changed = _fresh(found), "a new net", None
    path = out or Path(f"{found.header.name}.net")
    common.write_file(path, data)
    row: dict[str, Any] = {
        "path": str(path),
        "name": found.header.name,
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "how": how,
        "connections_changed": changed,
    }
    output.emit(row, as_json=as_json, text=lambda: f"{path}: {output.size(len(data))}, {how}")


def _as_imported(file: AgentFile, original: bool) -> tuple[bytes, str, int | None]:
    from edgeswarm.model.fann import export as fann_export
    from edgeswarm.model.fann import section

    item = section.decode(file.section("fann"), who=file.who)
    if original:
        return item.file, "as it was imported", None
    params = _libfann_params(file)
    if params is None:
        data, changed = fann_export.export(item, _layers(file), who=file.who)
    else:
        data, changed = fann_export.export_exact(item, params, who=file.who)
    return data, f"{changed} weights changed since the import" if changed else "byte for byte as imported", changed


def _libfann_params(file: AgentFile) -> list[dict[str, Any]] | None:
    """The params of the layers in libfann's own arithmetic; None where the agent has others."""
    from edgeswarm.compile import unpack_graph
    from edgeswarm.model.structure import outline_of

    if file.header.neural_config.network_type != "graph":
        return None
    outline = outline_of(file.section("model"))
    if not any(node.op in LIBFANN_OPS for node in outline.nodes):
        return None
    nodes = unpack_graph(file.section("neural_weights"), outline).nodes
    return [dict(node.params) for node in nodes if node.op in LIBFANN_OPS]


def _fresh(file: AgentFile) -> bytes:
    from edgeswarm.model import Mlp
    from edgeswarm.model.fann import export as fann_export
    from edgeswarm.model.fann.write import write

    layers = _layers(file, chain=True)
    return write(fann_export.fresh(Mlp(tuple(layers)), who=file.who))


def _layers(file: AgentFile, *, chain: bool = False) -> list[Dense]:
    """The dense layers of the agent's model, weights folded, in order.

    chain: each must read the one before it alone.  Raises ModelError for what is no such model.
    """
    from edgeswarm.compile import unpack_graph, unpack_weights
    from edgeswarm.model import Dense
    from edgeswarm.model.structure import outline_of

    net, weights = file.header.neural_config, file.section("neural_weights")
    if file.header.kernel.quantization is not None:
        raise ModelError("an int8 agent holds rounded weights: export the float32 agent it came from", who=file.who)
    if net.network_type == "feedforward":
        sizes = (net.input_size, *net.hidden_layers, net.output_size)
        names = (*[net.activation_function] * len(net.hidden_layers), net.output_activation)
        return list(unpack_weights(weights, sizes, names).layers)
    if net.network_type != "graph":
        raise ModelError(f"network_type {net.network_type}: expected feedforward or graph", who=file.who)
    graph = unpack_graph(weights, outline_of(file.section("model")))
    ops = {node.op for node in graph.nodes} - {"dense"}
    others = ops if chain else ops - {"concat"}
    if others:
        raise ModelError(
            f"operators: a .net file has dense layers alone, found {', '.join(sorted(others))}", who=file.who
        )
    at = graph.input
    for index, node in enumerate(graph.nodes):
        if chain and node.inputs != (at,):
            raise ModelError(
                f"node {index}: expected it to read the one before it, found {list(node.inputs)}", who=file.who
            )
        at = node.output
    nodes = [node for node in graph.nodes if node.op == "dense"]
    return [Dense(node.params["weights"], node.params["bias"], str(node.attrs["activation"])) for node in nodes]
