"""From a model back to a `.net` file: as it was imported, with the weights of today, or made anew.

Weights that did not change keep the file's own digits; a changed one is divided by what its number was multiplied by
on the way in.  What a FANN net cannot say (a weight where it has no connection, an activation that FANN has not)
raises ModelError.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeswarm.errors import ModelError
from edgeswarm.model.fann.activations import OF_FANN, TO_FANN
from edgeswarm.model.fann.convert import Converted, convert
from edgeswarm.model.fann.exact_net import exact_graph, weights_of
from edgeswarm.model.fann.net import F64, I32, LAYERED, Net, Value
from edgeswarm.model.fann.section import Imported
from edgeswarm.model.fann.write import write
from edgeswarm.model.mlp import F32, Dense, Mlp

_I32_MAX = (1 << 31) - 1


def export(item: Imported, layers: Sequence[Dense], *, who: str = "") -> tuple[bytes, int]:
    """The file for an imported net whose dense layers are now `layers`, and how many connections changed.

    layers: as `convert` made them, weights folded, in order.
    """
    net, made = item.net, convert(item.net, scaled=item.scaled, who=who)
    shapes = [stage.dense.weights.shape for stage in made.stages]
    if [layer.weights.shape for layer in layers] != shapes:
        raise ModelError("weights: expected the layers of the imported net, found others", who=who)
    new, old = _cells([layer.folded for layer in layers]), _cells([stage.dense.folded for stage in made.stages])
    differs = new != old
    if not differs.any():
        return item.file, 0
    if item.scaled:
        raise ModelError("weights changed and hold the net's scaling: they cannot be taken apart again", who=who)
    cell = _cell_of(made, shapes)
    known = np.zeros(len(new), bool)
    known[cell[cell >= 0]] = True
    if (differs & ~known).any():
        count = int((differs & ~known).sum())
        raise ModelError(f"weights: {count} changed where the net has no connection", who=who)
    weights = _unfolded(net, made, cell, new, old)
    return write(replace(net, weights=weights)), int((weights != net.weights).sum())


def export_exact(item: Imported, params: Sequence[dict[str, NDArray[Any]]], *, who: str = "") -> tuple[bytes, int]:
    """The same for an agent whose layers are in libfann's own arithmetic (`exact_net`): its params are the file's."""
    made = exact_graph(item.net)
    nodes = [node for node in made.nodes if node.op != "concat"] if made is not None else []
    if [{k: v.shape for k, v in one.items()} for one in params] != [
        {k: v.shape for k, v in node.params.items()} for node in nodes
    ]:
        raise ModelError("weights: expected the layers of the imported net, found others", who=who)
    for one, node in zip(params, nodes, strict=True):
        for key in set(one) - {"weights", "bias"}:
            if (one[key] != node.params[key]).any():
                raise ModelError(f"{key}: expected that of the imported net, found another", who=who)
    weights = weights_of(item.net, params)
    changed = int((weights != item.net.weights).sum())
    return (write(replace(item.net, weights=weights)) if changed else item.file), changed


def _cells(layers: Sequence[tuple[F32, F32]]) -> F32:
    """All numbers of all layers in one row: of each layer the bias, then its weights."""
    return np.concatenate([part for weights, bias in layers for part in (bias, weights.ravel())])


def _cell_of(made: Converted, shapes: Sequence[tuple[int, ...]]) -> F64:
    """For each connection the index of its number in `_cells`; -1 where it has none."""
    starts = np.cumsum([0] + [(rows + 1) * columns for rows, columns in shapes])
    widths = np.array([columns for _, columns in shapes])
    placed = made.stage >= 0
    stage = np.where(placed, made.stage, 0)
    cell = starts[stage] + (made.row + 1) * widths[stage] + made.column
    return np.where(placed, cell, -1)


def _unfolded(net: Net, made: Converted, cell: F64, new: F32, old: F32) -> F64:
    """The file's weights, with those of changed cells brought back into the file's numbers."""
    weights = net.weights.copy()
    placed = np.flatnonzero(cell >= 0)
    first = placed[np.unique(cell[placed], return_index=True)[1]]
    changed = first[new[cell[first]] != old[cell[first]]]
    many = np.bincount(cell[placed], minlength=len(new))
    single = changed[many[cell[changed]] == 1]
    several = changed[many[cell[changed]] > 1]
    if (made.scale[changed] == 0).any():
        raise ModelError("weights: some changed of a neuron whose steepness is 0")
    weights[single] = new[cell[single]].astype(np.float64) / made.scale[single]
    weights[several] += (new[cell[several]].astype(np.float64) - old[cell[several]]) / made.scale[several]
    if net.fixed:
        weights[changed] = np.rint(weights[changed])
        if (np.abs(weights[changed]) > _I32_MAX).any():
            raise ModelError(f"weights: expected numbers that fit 32 bits at decimal_point {net.multiplier:#x}")
        return weights
    if net.single:  # a file of floats stays one
        weights[changed] = weights[changed].astype(np.float32)
    return weights


def fresh(model: Mlp, *, who: str = "") -> Net:
    """A new layered net that computes `model`, with libfann's defaults for what only training reads.

    Raises ModelError for an activation that libfann 2.2 has no counterpart for.
    """
    sizes = tuple(size + 1 for size in model.sizes)
    num_inputs, activations, steepness = [0] * sizes[0], [0] * sizes[0], [0.0] * sizes[0]
    weights: list[F32] = []
    for index, (layer, (before, after)) in enumerate(zip(model.layers, pairwise(sizes), strict=True)):
        if layer.activation not in TO_FANN:
            known = ", ".join(TO_FANN)
            raise ModelError(
                f"layer {index}: {layer.activation} has no counterpart in libfann 2.2, which knows {known}", who=who
            )
        kind, steep = TO_FANN[layer.activation]
        num_inputs += [before] * (after - 1) + [0]
        activations += [kind] * (after - 1) + [0]
        steepness += [steep] * (after - 1) + [0.0]
        with np.errstate(over="ignore"):
            values = np.vstack(layer.folded).T / np.float32(steep * OF_FANN[kind].factor)  # a power of two: exact
        if not np.isfinite(values).all():
            raise ModelError(f"layer {index}: expected weights that a float32 holds 1,024 times, found larger", who=who)
        weights.append(values.ravel())
    sources: list[I32] = []
    start = 0
    for before, after in pairwise(sizes):
        sources += [np.arange(start, start + before, dtype=np.int32)] * (after - 1)
        start += before
    return Net(
        "FANN_FLO_2.1",
        _defaults(sizes),
        np.array(num_inputs, np.int32),
        np.array(activations, np.int32),
        np.array(steepness, np.float64),
        np.concatenate(sources),
        np.concatenate(weights).astype(np.float64),
    )


def _defaults(sizes: tuple[int, ...]) -> dict[str, Value]:
    """Parameters as libfann sets them in a new layered net."""
    return {
        "num_layers": len(sizes),
        "learning_rate": 0.7,
        "connection_rate": 1.0,
        "network_type": LAYERED,
        "learning_momentum": 0.0,
        "training_algorithm": 2,
        "train_error_function": 1,
        "train_stop_function": 0,
        "cascade_output_change_fraction": 0.01,
        "quickprop_decay": -0.0001,
        "quickprop_mu": 1.75,
        "rprop_increase_factor": 1.2,
        "rprop_decrease_factor": 0.5,
        "rprop_delta_min": 0.0,
        "rprop_delta_max": 50.0,
        "rprop_delta_zero": 0.1,
        "cascade_output_stagnation_epochs": 12,
        "cascade_candidate_change_fraction": 0.01,
        "cascade_candidate_stagnation_epochs": 12,
        "cascade_max_out_epochs": 150,
        "cascade_min_out_epochs": 50,
        "cascade_max_cand_epochs": 150,
        "cascade_min_cand_epochs": 50,
        "cascade_num_candidate_groups": 2,
        "bit_fail_limit": float(np.float32(0.35)),
        "cascade_candidate_limit": 1000.0,
        "cascade_weight_multiplier": float(np.float32(0.4)),
        "cascade_activation_functions_count": 10,
        "cascade_activation_functions": (3, 5, 7, 8, 10, 11, 14, 15, 16, 17),
        "cascade_activation_steepnesses_count": 4,
        "cascade_activation_steepnesses": (0.25, 0.5, 0.75, 1.0),
        "layer_sizes": sizes,
        "scale_included": 0,
    }
