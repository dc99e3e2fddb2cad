"""A FANN `.net` file as `agent import` wants it: the model, golden rows that float32 can decide, what to tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeswarm.agentfile import Section
from edgeswarm.agentfile.header import GoldenSpec, NeuralConfig
from edgeswarm.app.cli.agent_build import GOLDEN_ROWS, GOLDEN_SEED
from edgeswarm.app.cli.agent_import import GOLDEN_CANDIDATES, Found, Options
from edgeswarm.errors import LocalError, ModelError

if TYPE_CHECKING:
    from edgeswarm.compile import Kernel
    from edgeswarm.model import Mlp
    from edgeswarm.model.fann.convert import Converted
    from edgeswarm.model.fann.net import Net
    from edgeswarm.model.fann.section import Imported
    from edgeswarm.model.graph import Graph

EXACT_FROM = 2.5e-7
"""Where exact answers are further from libfann's on random rows, its own arithmetic is used: a fast kernel rounds
too, and other rows are worse, so that this keeps 1e-6 (mushroom's trained net: 2.6e-7 here, 8.3e-7 over its rows)."""
WARN_SPREAD = 1e-5  # below it nobody sees the difference


def found(data: bytes, options: Options, who: str) -> Found:
    """Raises ModelError with the line, LimitError."""
    from edgeswarm.model import graph
    from edgeswarm.model.fann import section
    from edgeswarm.model.fann.convert import convert
    from edgeswarm.model.structure import structure_of

    if options.stream is not None:
        raise LocalError(f"{who}: --stream is for nets over a window of frames, found a FANN net")
    item = section.imported(data, scaled=options.apply_scaling, who=who)
    made = convert(item.net, scaled=item.scaled, who=who)
    model = made.model if isinstance(made.model, graph.Graph) or _is_plain(made.model) else graph.graph_of(made.model)
    exact, apart = _exact(item, made, options.arithmetic, who)
    golden, moves = _golden(made) if exact is None else (_golden_exact(exact), 0.0)
    model = exact or model
    sections: dict[str, Section | bytes] = {"fann": section.encode(item)}
    if isinstance(model, graph.Graph):
        sections["model"] = structure_of(model)

    def kernel(batch_max: int, mode: str) -> Kernel:
        from edgeswarm.compile import compile_graph, compile_mlp

        if isinstance(model, graph.Graph):
            return compile_graph(model, batch_max=batch_max, mode=mode)
        return compile_mlp(model, batch_max=batch_max, mode=mode)

    told = _told(item, made, model) | {"arithmetic": "libfann's own" if exact else "fast", "difference": apart}
    return Found(
        _neural_config(item.net, model), kernel, golden, sections, told, _notes(item, made, moves, exact is not None)
    )


def _exact(item: Imported, made: Converted, wanted: str, who: str) -> tuple[Graph | None, float | None]:
    """The graph of libfann's own arithmetic, where it is wanted; and how far the plain model is from it, where known.

    Raises ModelError if it is asked for and there is none.
    """
    from edgeswarm.model.fann.exact_net import difference, exact_graph

    exact = None if item.scaled else exact_graph(item.net)
    if exact is None:
        if wanted == "libfann":
            raise ModelError(
                "--arithmetic libfann: expected a float net (FLO, weights that a float32 holds) whose outputs all have "
                "connections, without --apply-scaling",
                who=who,
            )
        return None, None
    apart = float(f"{difference(made.model, exact, GOLDEN_SEED):.2g}")
    take = wanted == "libfann" or (wanted == "auto" and apart > EXACT_FROM)
    return (exact if take else None), apart


def _golden_exact(exact: Graph) -> tuple[Section, GoldenSpec]:
    import numpy as np

    from edgeswarm.model.graph import forward
    from edgeswarm.model.seeded import random_rows

    rows = random_rows(GOLDEN_ROWS, exact.tensors[exact.input].size, GOLDEN_SEED)
    golden = np.hstack([rows, forward(exact, rows).astype(np.float32)])
    return Section(golden.astype("<f4").tobytes(), "f32", golden.shape), GoldenSpec()


def _is_plain(model: Mlp) -> bool:
    """Whether a header can say it: one activation for all hidden layers."""
    return len(set(model.activations[:-1])) <= 1


def _neural_config(net: Net, model: Mlp | Graph) -> NeuralConfig:
    from edgeswarm.app.builder import steepness_of
    from edgeswarm.model.graph import Graph

    rate = net.parameters["learning_rate"]
    assert isinstance(rate, float)
    plain: dict[str, Any] = {"input_size": net.inputs, "output_size": net.outputs}
    plain["learning_rate"] = min(max(rate, 0.0), 1000.0)
    if isinstance(model, Graph):
        return NeuralConfig(**plain, network_type="graph")
    hidden = model.sizes[1:-1]
    names: dict[str, Any] = {"activation_function": model.activations[0]} if hidden else {}
    names["output_activation"] = model.activations[-1]
    steepness = tuple(steepness_of(model))
    return NeuralConfig(**plain, **names, hidden_layers=hidden, steepness=steepness)


def _golden(made: Converted) -> tuple[tuple[Section, GoldenSpec], float]:
    """Golden rows, their tolerance, and by how much float32 moves the answers at most, but for one row in a hundred."""
    from edgeswarm.model.fann.noise import steady_rows

    golden, moved, usual = steady_rows(made, GOLDEN_ROWS, GOLDEN_CANDIDATES, GOLDEN_SEED)
    wanted = GoldenSpec()
    if 8 * moved > wanted.absolute:
        wanted = GoldenSpec(absolute=min(1.0, float(f"{8 * moved:.2g}")))
    return (Section(golden.astype("<f4").tobytes(), "f32", golden.shape), wanted), usual


def _told(item: Imported, made: Converted, model: Mlp | Graph) -> dict[str, Any]:
    from edgeswarm.model.fann.net import ACTIVATION_NAMES
    from edgeswarm.model.graph import Graph

    net = item.net
    kinds = dict.fromkeys(net.activations[net.num_inputs > 0].tolist())
    full = bool(net.parameters["connection_rate"] == 1.0)
    shape = "shortcut" if net.shortcut else "layered"
    return {
        "format": net.version,
        "topology": f"{shape}, {'fully connected' if full else 'sparse'}",
        "layers": list(net.layer_sizes),
        "inputs": net.inputs,
        "outputs": net.outputs,
        "connections": len(net.weights),
        "activations": [ACTIVATION_NAMES[kind] for kind in kinds],
        "steepness": sorted({float(f"{s / net.multiplier:.6g}") for s in net.steepness[net.num_inputs > 0].tolist()}),
        "scaling": "folded in" if item.scaled else "in the file, not applied" if net.scaled else "none",
        "decimal_point": net.count("decimal_point") if net.fixed else None,
        "neurons_held": made.held,
        "model": f"graph of {len(model.nodes)} nodes" if isinstance(model, Graph) else "feedforward",
        "exact_export": "as libfann writes it" if item.as_is is None else "kept as it is",
    }


def _notes(item: Imported, made: Converted, moves: float, exact: bool) -> tuple[str, ...]:
    from edgeswarm.model.fann.convert import INPUT_RANGE

    net, notes = item.net, []
    if net.scaled and not item.scaled:
        notes.append(
            "the file has scaling parameters, which fann_run does not use either: rows must be scaled before and "
            "answers after, or --apply-scaling folds both into the model"
        )
    if net.fixed:
        notes.append(
            f"a fixed-point net (1.0 is {net.multiplier}): its weights become floats, and its answers are those of "
            "floating-point arithmetic, not libfann's fixed-point bits"
        )
    if made.held and not exact:
        notes.append(
            f"the sums of {made.held} neurons can pass FANN's bound of 150 / steepness for inputs within "
            f"+-{INPUT_RANGE:g}: they are held as libfann holds them, which costs a layer"
        )
    if moves > WARN_SPREAD:
        notes.append(
            f"float32 rounding alone moves answers of this net by up to {moves:.1g}: libfann's own are off by as much "
            "from what the file's numbers say"
        )
    return tuple(notes)
