"""A FANN `.net` file as `agent import` wants it: the model, golden rows that float32 can decide, what to tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeswarm.agentfile import Section
from edgeswarm.agentfile.header import GoldenSpec, NeuralConfig
from edgeswarm.app.builder import steepness_of
from edgeswarm.app.cli.agent_build import GOLDEN_ROWS, GOLDEN_SEED
from edgeswarm.app.cli.agent_import import GOLDEN_CANDIDATES, Found, Options
from edgeswarm.model import graph, reference
from edgeswarm.model.fann import section
from edgeswarm.model.fann.convert import INPUT_RANGE, Converted, convert
from edgeswarm.model.fann.net import ACTIVATION_NAMES, Net
from edgeswarm.model.fann.noise import spread
from edgeswarm.model.mlp import Mlp
from edgeswarm.model.seeded import random_rows
from edgeswarm.model.structure import structure_of

if TYPE_CHECKING:
    from edgeswarm.compile import Kernel

WARN_SPREAD = 1e-5  # below it nobody sees the difference


def found(data: bytes, options: Options, who: str) -> Found:
    """Raises ModelError with the line, LimitError."""
    item = section.imported(data, scaled=options.apply_scaling, who=who)
    made = convert(item.net, scaled=item.scaled, who=who)
    model = made.model if isinstance(made.model, graph.Graph) or _is_plain(made.model) else graph.graph_of(made.model)
    golden, moves = _golden(made)
    sections: dict[str, Section | bytes] = {"fann": section.encode(item)}
    if isinstance(model, graph.Graph):
        sections["model"] = structure_of(model)

    def kernel(batch_max: int, mode: str) -> Kernel:
        from edgeswarm.compile import compile_graph, compile_mlp

        if isinstance(model, Mlp):
            return compile_mlp(model, batch_max=batch_max, mode=mode)
        return compile_graph(model, batch_max=batch_max, mode=mode)

    told = _told(item, made, model)
    return Found(_neural_config(item.net, model), kernel, golden, sections, told, _notes(item, made, moves))


def _is_plain(model: Mlp) -> bool:
    """Whether a header can say it: one activation for all hidden layers."""
    return len(set(model.activations[:-1])) <= 1


def _neural_config(net: Net, model: Mlp | graph.Graph) -> NeuralConfig:
    rate = net.parameters["learning_rate"]
    assert isinstance(rate, float)
    plain: dict[str, Any] = {"input_size": net.inputs, "output_size": net.outputs}
    plain["learning_rate"] = min(max(rate, 0.0), 1000.0)
    if isinstance(model, graph.Graph):
        return NeuralConfig(**plain, network_type="graph")
    hidden = model.sizes[1:-1]
    names: dict[str, Any] = {"activation_function": model.activations[0]} if hidden else {}
    names["output_activation"] = model.activations[-1]
    steepness = tuple(steepness_of(model))
    return NeuralConfig(**plain, **names, hidden_layers=hidden, steepness=steepness)


def _golden(made: Converted) -> tuple[tuple[Section, GoldenSpec], float]:
    """Golden rows, their tolerance, and by how much float32 moves the answers at most, but for one row in a hundred.

    Of many rows those that rounding moves least: a step function's edge decides nothing.
    """
    inputs = made.stages[0].dense.inputs if isinstance(made.model, Mlp) else made.model.tensors[0].size
    rows = random_rows(GOLDEN_CANDIDATES, inputs, GOLDEN_SEED)
    moved = spread(made, rows.astype(np.float64), GOLDEN_SEED)
    best = np.sort(np.argsort(moved, kind="stable")[:GOLDEN_ROWS])
    rows = rows[best]
    answers = (reference if isinstance(made.model, Mlp) else graph).forward(made.model, rows)
    golden = np.hstack([rows, answers.astype(np.float32)])
    wanted = GoldenSpec()
    allowed = float(8 * moved[best].max())
    if allowed > wanted.absolute:
        wanted = GoldenSpec(absolute=min(1.0, float(f"{allowed:.2g}")))
    return (Section(golden.astype("<f4").tobytes(), "f32", golden.shape), wanted), float(np.quantile(moved, 0.99))


def _told(item: section.Imported, made: Converted, model: Mlp | graph.Graph) -> dict[str, Any]:
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
        "model": "feedforward" if isinstance(model, Mlp) else f"graph of {len(model.nodes)} nodes",
        "exact_export": "as libfann writes it" if item.as_is is None else "kept as it is",
    }


def _notes(item: section.Imported, made: Converted, moves: float) -> tuple[str, ...]:
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
    if made.held:
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
