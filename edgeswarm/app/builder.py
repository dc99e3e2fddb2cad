"""From a model and a header to the bytes of a signed agent file; what `spawn` and `agent build` share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgeswarm import agentfile, schema
from edgeswarm.agentfile.file import Section
from edgeswarm.agentfile.header import Header
from edgeswarm.compile.abi import Layout
from edgeswarm.drivers.keys import SigningKey
from edgeswarm.errors import AgentFileError, InputError

if TYPE_CHECKING:
    from edgeswarm.compile import Kernel
    from edgeswarm.model import Mlp
    from edgeswarm.model.graph import Graph, Outline

GOLDEN_ROWS = 8
GOLDEN_SEED = 1


def model_of(
    weights: Any,
    *,
    sizes: Sequence[int],
    activation: str,
    output_activation: str,
    steepness: Sequence[float] = (),
    seed: int = 0,
) -> Mlp:
    """weights: None (random from `seed`), a Network, an Mlp, or [(matrix, bias), ...], which takes the steepness.

    Raises InputError where sizes differ, ModelError for what is no layer or not finite.
    """
    from edgeswarm.model import Mlp, from_arrays, random_mlp

    if weights is None:
        return random_mlp(sizes, activation, output_activation, seed)
    model = getattr(weights, "model", weights)
    if not isinstance(model, Mlp):
        try:
            matrices, biases = zip(*weights, strict=True)
        except (TypeError, ValueError):
            what = f"a Network, a model.Mlp or [(matrix, bias), ...], found {type(weights).__name__}"
            raise InputError(f"weights: expected {what}") from None
        model = from_arrays(matrices, biases, activation, output_activation, steepness)
    if model.sizes != tuple(sizes):
        raise InputError(f"weights: expected layers of {list(sizes)}, found {list(model.sizes)}")
    return model


def steepness_of(model: Mlp) -> list[float]:
    """What a header says of it: nothing where every layer's is 1."""
    return list(model.steepness) if any(value != 1.0 for value in model.steepness) else []


def build_mlp(
    *,
    name: str,
    sizes: Sequence[int],
    activation: str,
    output_activation: str,
    capabilities: Sequence[str],
    weights: Any,
    seed: int,
    wiring: Mapping[str, Any] | None,
    key: SigningKey,
) -> bytes:
    """An agent file around an MLP.  Raises AgentFileError listing every fault of name, wiring and capabilities."""
    model = model_of(weights, sizes=sizes, activation=activation, output_activation=output_activation, seed=seed)
    tree: dict[str, Any] = {
        "version": "1.0",
        "name": name,
        "neural_config": {
            "network_type": "feedforward",
            "input_size": sizes[0],
            "output_size": sizes[-1],
            "hidden_layers": list(sizes[1:-1]),
            "activation_function": activation,
            "output_activation": output_activation,
            "steepness": steepness_of(model),
        },
        "wiring": wiring if wiring is not None else {"sources": [{"type": "api", "width": sizes[0]}]},
        "capabilities": list(capabilities),
    }
    return build(tree, model, key=key)


def build(
    tree: Mapping[str, Any],
    model: Mlp | Graph,
    *,
    key: SigningKey,
    created: str | None = None,
    batch_max: int = 256,
    golden_of: Mlp | Graph | None = None,
) -> bytes:
    """tree: the header's keys, without sections.  The kernel and its golden vectors are made here.

    A Graph wants network_type `graph`, and gets the section `model`.  Raises AgentFileError.
    """
    from edgeswarm.compile import compile_graph, make_golden
    from edgeswarm.model.graph import Graph, graph_of
    from edgeswarm.model.structure import structure_of

    try:
        header = schema.decode(dict(tree), Header, where=str(tree.get("name", "agent")))
    except schema.SchemaError as error:
        raise AgentFileError(str(error)) from None
    is_graph, found = isinstance(model, Graph), header.neural_config.network_type
    if is_graph != (found == "graph"):
        wanted = "graph" if is_graph else "feedforward"
        raise AgentFileError(f"{header.name}: network_type: expected {wanted}, found {found}")
    graph = model if isinstance(model, Graph) else graph_of(model)
    kernel = compile_graph(graph, batch_max=batch_max, mode=header.kernel.mode)
    golden = make_golden(golden_of or model, GOLDEN_ROWS, GOLDEN_SEED)
    sections = {
        "neural_weights": weights_section(kernel, graph),
        "wasm_kernel": Section(kernel.wasm),
        "golden": Section(golden.tobytes(), "f32", golden.shape),
    }
    if is_graph:
        sections["model"] = Section(structure_of(graph))
    return agentfile.build(header, sections, publisher_key=key.seed, created=created)


def weights_section(kernel: Kernel, graph: Graph) -> Section:
    """Packed weights as float32, or as bytes where a node's are of 8 bits: four of -1 would be a NaN."""
    if any(param.dtype == "i8" for index in range(len(graph.nodes)) for param in graph.params_of(index).values()):
        return Section(kernel.weights, "u8", (len(kernel.weights),))
    return Section(kernel.weights, "f32", kernel.layout.weights.shape)


def repack(
    header: Header, layout: Layout, running: bytes, weights: Any, *, delta: bool, structure: bytes = b""
) -> bytes:
    """`weights` as the bytes that the running kernel wants.  delta: added to `running`, layer by layer.

    structure: the section `model`, for a network_type of `graph`; weights are a Graph, a Shortcut or [(matrix, bias),
    ...], one a dense node.  Raises InputError where the shapes differ, ModelError for numbers (or sums) not finite.
    """
    import numpy as np

    from edgeswarm.compile import pack_weights, unpack_weights
    from edgeswarm.model import from_arrays

    net = header.neural_config
    if net.network_type == "graph":
        from edgeswarm.model.structure import outline_of

        graph = _graph_like(outline_of(structure), weights)
        return pack_weights(_added(graph, running) if delta else graph, layout)
    sizes = (net.input_size, *net.hidden_layers, net.output_size)
    names = (net.activation_function, net.output_activation)
    model = model_of(weights, sizes=sizes, activation=names[0], output_activation=names[1], steepness=net.steepness)
    if header.kernel.quantization is not None:
        if delta:
            raise InputError("weights: an int8 agent takes whole weights: a small delta would be lost in its rounding")
        from edgeswarm.compile.lower_i8 import repack_i8

        return repack_i8(model, layout, running, header.kernel.quantization.path)
    if delta:
        now = unpack_weights(running, sizes, [*[names[0]] * len(net.hidden_layers), names[1]])
        pairs = list(zip(now.layers, model.layers, strict=True))
        with np.errstate(over="ignore"):  # what is not finite any more is refused
            sums = [a.weights + b.folded[0] for a, b in pairs], [a.bias + b.folded[1] for a, b in pairs]
        model = from_arrays(*sums, *names)
    return pack_weights(model, layout)


def _graph_like(outline: Outline, weights: Any) -> Graph:
    """`weights` as a graph of this structure.  Raises InputError for another structure, ModelError for bad numbers."""
    from dataclasses import replace

    import numpy as np

    from edgeswarm.model.graph import Graph, graph_of
    from edgeswarm.model.shortcut import Shortcut
    from edgeswarm.model.structure import structure_of

    if isinstance(weights, Shortcut):
        weights = graph_of(weights)
    if isinstance(weights, Graph):
        if structure_of(weights) != structure_of(outline):
            raise InputError("weights: expected a graph of the running kernel's structure, found another")
        return weights
    places = [index for index, node in enumerate(outline.nodes) if node.op == "dense"]
    try:
        pairs = [(np.asarray(w, np.float32), np.asarray(b, np.float32)) for w, b in weights]
    except (TypeError, ValueError):
        what = f"a graph.Graph, a Shortcut or [(matrix, bias), ...], found {type(weights).__name__}"
        raise InputError(f"weights: expected {what}") from None
    if len(pairs) != len(places):
        raise InputError(f"weights: expected {len(places)} pairs, one a dense node, found {len(pairs)}")
    nodes = list(outline.nodes)
    for index, (matrix, bias) in zip(places, pairs, strict=True):
        nodes[index] = replace(nodes[index], params={"weights": matrix, "bias": bias})
    return Graph(outline.tensors, tuple(nodes), outline.input, outline.output)


def _added(graph: Graph, running: bytes) -> Graph:
    """`graph` with the running weights added to its own; ModelError where a sum is not finite any more.

    Raises InputError for 8-bit nodes, and where a steepness or a sparse net's connections are not those that run.
    """
    from dataclasses import replace

    import numpy as np

    from edgeswarm.compile import unpack_graph

    nodes = []
    for index, (node, now) in enumerate(zip(graph.nodes, unpack_graph(running, graph.outline).nodes, strict=True)):
        params = dict(now.params)
        if node.op == "dense_i8":
            raise InputError("weights: 8-bit nodes take whole weights: a small delta would be lost in their rounding")
        for name, array in node.params.items():
            if name in ("weights", "bias"):
                with np.errstate(over="ignore"):
                    params[name] = params[name] + array
            elif not np.array_equal(params[name], array):
                raise InputError(f"weights: node {index}: {name}: expected in a delta what runs, found others")
        nodes.append(replace(node, params=params))
    return replace(graph, nodes=tuple(nodes))
