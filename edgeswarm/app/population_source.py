"""What a population is made of: a model, or a kernel whose weights only its maker can read.

Decides what of an agent file is used: a feed-forward one's model, compiled anew for single rows, which puts inputs,
outputs and weights of a small net into one page; any other's kernel as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeswarm.errors import AgentFileError, InputError, LocalError, ModelError, PermissionDeniedError
from edgeswarm.limits import AF_FILE_BYTES_MAX, POPULATION_DEADLINE_MS_DEFAULT

if TYPE_CHECKING:
    from edgeswarm.agentfile import AgentFile
    from edgeswarm.compile import Kernel
    from edgeswarm.model import Mlp

MODES = ("fast", "deterministic")


@dataclass(frozen=True, slots=True)
class Source:
    """model: None where only the kernel's own maker knows what its weights are."""

    name: str
    model: Mlp | None
    mode: str
    made: Kernel | None = None
    """A kernel that is used as it is."""
    policy: str = "strict"
    deadline_ms: int = POPULATION_DEADLINE_MS_DEFAULT
    """Of one agent, where nobody says otherwise: what an agent file grants its kernel."""

    def kernel(self) -> Kernel:
        """For one agent: rows come one at a time."""
        if self.made is not None:
            return self.made
        from edgeswarm.compile import compile_mlp

        return compile_mlp(self.known(), batch_max=1, mode=self.mode)

    def known(self) -> Mlp:
        """The model.  Raises LocalError where there is none."""
        if self.model is None:
            raise LocalError(f"{self.name}: what its weights mean is not known: expected a feed-forward net")
        return self.model

    def like(self, weights: Any) -> Mlp:
        """Other weights for the same net.  Raises InputError or ModelError where they do not fit."""
        from edgeswarm.model import Dense, Mlp

        model = self.known()
        found = getattr(weights, "model", weights)
        if not isinstance(found, Mlp):
            try:
                pairs = [(w, b) for w, b in found]
            except (TypeError, ValueError):
                what = f"a Network, a model.Mlp or [(matrix, bias), ...], found {type(found).__name__}"
                raise InputError(f"weights: expected {what}") from None
            if len(pairs) != len(model.layers):
                raise InputError(f"weights: expected {len(model.layers)} layers, found {len(pairs)}")
            found = Mlp(tuple(Dense(w, b, layer.activation) for (w, b), layer in zip(pairs, model.layers, strict=True)))
        if (found.sizes, found.activations) != (model.sizes, model.activations):
            raise InputError(
                f"weights: expected {describe(model)}, found {describe(found)}: a population is of one net"
            )
        return found

    def check_stacked(self, layers: Any, count: int) -> None:
        """Raises InputError unless these are the weights of `count` agents, finite."""
        import numpy as np

        model = self.known()
        if len(layers) != len(model.layers):
            raise InputError(f"weights: expected {len(model.layers)} layers, found {len(layers)}")
        for number, ((weights, bias), layer) in enumerate(zip(layers, model.layers, strict=True)):
            shapes = ((count, layer.inputs, layer.outputs), (count, layer.outputs))
            for what, array, shape in (("weights", weights, shapes[0]), ("bias", bias, shapes[1])):
                if array.shape != shape:
                    raise InputError(f"layer {number}: {what}: expected {list(shape)}, found {list(array.shape)}")
                if not np.isfinite(array).all():
                    raise InputError(f"layer {number}: {what}: expected finite numbers, found NaN or infinity")

    def packed_bytes(self, model: Mlp, kernel: Kernel) -> bytes:
        from edgeswarm.compile import pack_weights

        return pack_weights(model, kernel.layout)

    def layers_of(self, weights: bytes) -> list[tuple[Any, Any]]:
        """The inverse: one agent's bytes as layers."""
        from edgeswarm.compile import unpack_weights

        model = self.known()
        found = unpack_weights(weights, model.sizes, model.activations)
        return [(layer.weights, layer.bias) for layer in found.layers]


def source_of(model: Any, mode: str) -> Source:
    """Raises LocalError for what is none of those, AgentFileError, KernelError."""
    from edgeswarm.agentfile import AgentFile
    from edgeswarm.app.network import Network
    from edgeswarm.compile import Kernel, compile_graph
    from edgeswarm.model import Mlp
    from edgeswarm.model.graph import Graph, graph_of
    from edgeswarm.model.shortcut import Shortcut

    if mode not in MODES:
        raise LocalError(f"mode: expected one of {', '.join(MODES)}, found {mode!r}")
    match model:
        case Network():
            return Source("network", model.model, mode)
        case Mlp():
            return Source("model", model, mode)
        case Graph() | Shortcut():
            graph = model if isinstance(model, Graph) else graph_of(model)
            return Source("graph", None, mode, compile_graph(graph, batch_max=1, mode=mode))
        case Kernel():
            return Source("kernel", None, mode, model)
        case AgentFile():
            return _of_file(model)
        case bytes():
            return _of_file(_read(model, "agent file"))
        case str() | Path():
            path = Path(model)
            try:
                with path.open("rb") as file:
                    data = file.read(AF_FILE_BYTES_MAX + 1)  # one too many is for agentfile to refuse
            except PermissionError:
                raise PermissionDeniedError(f"{path}: may not be read") from None
            except OSError as error:
                raise AgentFileError(f"{path}: {error.strerror}") from None
            except ValueError as error:  # a zero byte in the name
                raise AgentFileError(f"{str(path)!r}: {error}") from None
            return _of_file(_read(data, str(path)))
        case _:
            what = "a Network, a model (Mlp, Shortcut, Graph), a Kernel or an agent file"
            raise LocalError(f"model: expected {what}, found {type(model).__name__}")


def _read(data: bytes, who: str) -> AgentFile:
    from edgeswarm import agentfile

    return agentfile.read(data, who=who, wanted=["neural_weights", "wasm_kernel"])


def _of_file(file: AgentFile) -> Source:
    """Signatures are not checked here: whoever needs that reads the file, verifies it, and hands it over."""
    from edgeswarm.app.shelf import check_kernel
    from edgeswarm.compile import Kernel, check_module, pack_weights, unpack_weights

    layout = check_kernel(file, who=file.who)
    wasm, weights = file.section("wasm_kernel"), file.sections.get("neural_weights", b"")
    check_module(wasm, who=file.who)
    net, name = file.header.neural_config, file.header.name
    policy, deadline_ms = file.header.sandbox, file.header.kernel.deadline_ms
    if net.network_type == "feedforward":
        sizes = (net.input_size, *net.hidden_layers, net.output_size)
        names = [*[net.activation_function] * len(net.hidden_layers), net.output_activation]
        try:
            model = unpack_weights(weights, sizes, names)
            if pack_weights(model, layout) == weights:
                mode = "deterministic" if layout.deterministic else "fast"
                return Source(name, model, mode, None, policy, deadline_ms)
        except ModelError:
            pass  # a kernel of its own packing: used as it is
    return Source(name, None, "fast", Kernel(wasm, layout, weights), policy, deadline_ms)


def describe(model: Mlp) -> str:
    return f"{'-'.join(map(str, model.sizes))} ({', '.join(model.activations)})"
