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
    from edgeswarm.model import Mlp

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
    model: Mlp,
    *,
    key: SigningKey,
    created: str | None = None,
    batch_max: int = 256,
    golden_of: Mlp | None = None,
) -> bytes:
    """tree: the header's keys, without sections.  The kernel and its golden vectors are made here."""
    from edgeswarm.compile import compile_mlp, make_golden

    try:
        header = schema.decode(dict(tree), Header, where=str(tree.get("name", "agent")))
    except schema.SchemaError as error:
        raise AgentFileError(str(error)) from None
    kernel = compile_mlp(model, batch_max=batch_max, mode=header.kernel.mode)
    golden = make_golden(golden_of or model, GOLDEN_ROWS, GOLDEN_SEED)
    sections = {
        "neural_weights": Section(kernel.weights, "f32", kernel.layout.weights.shape),
        "wasm_kernel": Section(kernel.wasm),
        "golden": Section(golden.tobytes(), "f32", golden.shape),
    }
    return agentfile.build(header, sections, publisher_key=key.seed, created=created)


def repack(header: Header, layout: Layout, running: bytes, weights: Any, *, delta: bool) -> bytes:
    """`weights` as the bytes that the running kernel wants.  delta: added to `running`, layer by layer.

    Raises InputError where the shapes differ, ModelError for numbers (or sums) that are not finite.
    """
    import numpy as np

    from edgeswarm.compile import pack_weights, unpack_weights
    from edgeswarm.model import from_arrays

    net = header.neural_config
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
