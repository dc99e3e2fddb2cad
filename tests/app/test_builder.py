"""What a model becomes on its way into an agent file, and what new weights become for a kernel that runs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgeswarm import agentfile
from edgeswarm.agentfile import Header
from edgeswarm.app import builder
from edgeswarm.compile import Kernel, compile_graph, compile_mlp, read_layout, unpack_graph, unpack_weights
from edgeswarm.drivers import keys
from edgeswarm.errors import AgentFileError, InputError, ModelError
from edgeswarm.model import Dense, Mlp, random_mlp
from edgeswarm.model.graph import Builder, Graph, Tensor, graph_of
from edgeswarm.model.shortcut import Shortcut
from edgeswarm.model.structure import structure_of
from edgeswarm.schema import decode

STEEP = (0.25, 3.0)


def header(steepness: tuple[float, ...] = STEEP) -> Header:
    net = {"input_size": 3, "output_size": 2, "hidden_layers": [4], "steepness": list(steepness)}
    return decode({"version": "1.0", "name": "a", "neural_config": net}, Header)


@pytest.fixture
def kernel() -> Kernel:
    return compile_mlp(random_mlp((3, 4, 2), "relu", "linear", 1))


def arrays(model: Mlp) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(layer.weights, layer.bias) for layer in model.layers]


def test_plain_arrays_take_the_steepness_of_the_header(kernel: Kernel) -> None:
    other = random_mlp((3, 4, 2), "relu", "linear", 2)
    packed = builder.repack(header(), kernel.layout, kernel.weights, arrays(other), delta=False)
    for layer, found, steepness in zip(
        other.layers, unpack_weights(packed, other.sizes, other.activations).layers, STEEP, strict=True
    ):
        assert np.array_equal(found.weights, layer.weights * np.float32(steepness))
        assert np.array_equal(found.bias, layer.bias * np.float32(steepness))


def test_a_delta_of_plain_arrays_takes_the_steepness_too(kernel: Kernel) -> None:
    delta = random_mlp((3, 4, 2), "relu", "linear", 2)
    before = unpack_weights(kernel.weights, delta.sizes, delta.activations)
    packed = builder.repack(header(), kernel.layout, kernel.weights, arrays(delta), delta=True)
    after = unpack_weights(packed, delta.sizes, delta.activations)
    for old, change, new, steepness in zip(before.layers, delta.layers, after.layers, STEEP, strict=True):
        assert np.array_equal(new.weights, old.weights + change.weights * np.float32(steepness))


def test_a_model_keeps_its_own_steepness(kernel: Kernel) -> None:
    layers = random_mlp((3, 4, 2), "relu", "linear", 2).layers
    model = Mlp(tuple(Dense(layer.weights, layer.bias, layer.activation, 2.0) for layer in layers))
    packed = builder.repack(header(), kernel.layout, kernel.weights, model, delta=False)
    found = unpack_weights(packed, model.sizes, model.activations)
    assert np.array_equal(found.layers[0].weights, layers[0].weights * 2)
    assert builder.steepness_of(model) == [2.0, 2.0]
    assert builder.steepness_of(found) == []


def graph_header(**changes: object) -> dict[str, object]:
    net = {"input_size": 3, "output_size": 2, "network_type": "graph"} | changes
    return {"version": "1.0", "name": "a", "neural_config": net}


def shortcut(seed: int) -> Shortcut:
    random = np.random.default_rng(seed)
    layers = [
        Dense(random.normal(size=(width, units)).astype("f4"), random.normal(size=units).astype("f4"), "tanh")
        for width, units in ((3, 1), (4, 1), (5, 2))
    ]
    return Shortcut(3, tuple(layers), 2)


def test_a_graph_travels_with_its_structure_and_takes_new_weights() -> None:
    first, second = graph_of(shortcut(1)), graph_of(shortcut(2))
    file = agentfile.read(builder.build(graph_header(), first, key=keys.from_seed(bytes(32))), who="a")
    structure, running = file.section("model"), file.section("neural_weights")
    assert structure == structure_of(first) and running == compile_graph(first).weights
    layout = read_layout(file.section("wasm_kernel"))

    def packed(weights: object, delta: bool) -> bytes:
        return builder.repack(file.header, layout, running, weights, delta=delta, structure=structure)

    assert packed(second, False) == packed(shortcut(2), False) == compile_graph(second).weights
    pairs = [(layer.weights, layer.bias) for layer in shortcut(2).layers]
    assert packed(pairs, False) == compile_graph(second).weights
    found = unpack_graph(packed(pairs, True), first.outline)
    for node, a, b in zip(found.nodes, first.nodes, second.nodes, strict=True):
        assert all(np.array_equal(node.params[name], a.params[name] + b.params[name]) for name in a.params)


def built(graph: Graph) -> tuple[agentfile.AgentFile, bytes, Callable[[object, bool], bytes]]:
    """An agent file of it, its weights, and what other weights would be."""
    width, outputs = graph.tensors[graph.input].size, graph.tensors[graph.output].size
    tree = graph_header(input_size=width, output_size=outputs)
    file = agentfile.read(builder.build(tree, graph, key=keys.from_seed(bytes(32))), who="a")
    layout, running = read_layout(file.section("wasm_kernel")), file.section("neural_weights")

    def packed(weights: object, delta: bool) -> bytes:
        return builder.repack(file.header, layout, running, weights, delta=delta, structure=file.section("model"))

    return file, running, packed


def test_a_graph_of_8_bit_nodes_travels_too_and_takes_whole_weights() -> None:
    """Four weights of -1 are a NaN to whoever takes them for a float32."""
    made = []
    for scale in (0.01, 0.02):
        make = Builder(Tensor((8,)))
        q = make.add("quantize", [0], like=Tensor((8,), "u7", 1 / 64))
        params = {"weights": np.full((8, 4), -1, np.int8), "bias": np.zeros(4, np.int32)}
        params |= {"multiplier": np.full(4, scale, np.float32)}
        made.append(make.graph(make.add("dense_i8", [q], params, like=Tensor((4,)), units=4, activation="linear")))
    file, running, packed = built(made[0])
    (entry,) = (entry for entry in file.header.sections if entry.name == "neural_weights")
    assert entry.dtype == "u8" and running == compile_graph(made[0]).weights
    assert packed(made[1], False) == compile_graph(made[1]).weights
    with pytest.raises(InputError, match="8-bit nodes take whole weights"):
        packed(made[1], True)


def test_a_delta_of_a_sparse_layer_adds_weights_and_no_connections() -> None:
    """Sources and counts are numbers of the same region: added up they named other neurons."""

    def sparse(weight: float, steepness: float = 1.0) -> Graph:
        make = Builder(Tensor((3,)))
        params = {"weights": np.full(4, weight, np.float32), "sources": np.array([0, 2, 1, 3], np.int32)}
        params |= {"counts": np.array([1, 3], np.int32), "steepness": np.full(2, steepness, np.float32)}
        return make.graph(make.add("sparse_fann", [0], params, units=2, activation="tanh", connections=4))

    _, running, packed = built(sparse(0.5))
    found = unpack_graph(packed(sparse(0.25), True), sparse(0.5).outline).nodes[0].params
    assert found["weights"].tolist() == [0.75] * 4 and found["sources"].tolist() == [0, 2, 1, 3]
    assert found["steepness"].tolist() == [1.0, 1.0] and packed(sparse(0.5), False) == running
    with pytest.raises(InputError, match="node 0: steepness: expected in a delta what runs"):
        packed(sparse(0.25, 2.0), True)


def test_weights_that_are_no_graph_of_this_structure_are_refused() -> None:
    first = graph_of(shortcut(1))
    kernel, structure, head = compile_graph(first), structure_of(first), decode(graph_header(), Header)
    other = graph_of(random_mlp((3, 4, 2), "tanh", "tanh"))
    huge = [(np.full(node.params["weights"].shape, 3e38), node.params["bias"]) for node in first.nodes if node.params]
    for weights, error, text in [
        (other, InputError, "expected a graph of the running kernel's structure"),
        (7, InputError, "found int"),
        ([], InputError, "expected 3 pairs, one a dense node, found 0"),
        ([(np.ones((3, 1)), [1.0])] * 3, ModelError, r"node 2 \(dense\).weights: expected the shape \[4, 1\]"),
        ([(np.full(w.shape, np.nan), b) for w, b in huge], ModelError, "expected finite numbers"),
    ]:
        with pytest.raises(error, match=text):
            builder.repack(head, kernel.layout, kernel.weights, weights, delta=False, structure=structure)
    running = builder.repack(head, kernel.layout, kernel.weights, huge, delta=False, structure=structure)
    with pytest.raises(ModelError, match="expected finite numbers"):
        builder.repack(head, kernel.layout, running, huge, delta=True, structure=structure)


def test_a_graph_wants_its_network_type_and_no_other_model_does() -> None:
    key = keys.from_seed(bytes(32))
    with pytest.raises(AgentFileError, match="expected graph, found feedforward"):
        builder.build(graph_header(network_type="feedforward"), graph_of(shortcut(1)), key=key)
    with pytest.raises(AgentFileError, match="expected feedforward, found graph"):
        builder.build(graph_header(), random_mlp((3, 2)), key=key)
