"""A FANN net as a model of dense layers, and where in them each of its connections went.

A layered net whose layers have one activation each becomes an Mlp; everything else a Graph of dense and concat nodes.
An absent connection is a weight of 0, a neuron without connections is a bias of what it feeds.  Steepness is folded
into the weights of its neuron.  Where a sum can pass what FANN holds it within and that shows in the answer, the
layer is computed in two steps, the first of which holds it (`_held`).
Invariant: `weights_of(net)` and `layers` agree: the same folding gives the same float32 numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeswarm.errors import LimitError, ModelError
from edgeswarm.limits import AF_SECTION_BYTES_MAX, FANN_SPARSE_RATIO_MAX, LAYERS_MAX
from edgeswarm.model.fann.activations import OF_FANN, SUM_MAX
from edgeswarm.model.fann.check import first_neurons, layer_of_neurons, targets
from edgeswarm.model.fann.net import F64, I32, Net
from edgeswarm.model.fann.scaling import input_scale, output_scale, scaled_in, scaled_out
from edgeswarm.model.graph import Builder, Graph, Tensor
from edgeswarm.model.mlp import Dense, Mlp

INPUT_RANGE = 10.0
"""Inputs are taken to lie within +- this when asking whether a sum can reach FANN's bound; nets are trained on +-1."""
_SMALL = 1_000_000  # weights that a sparse net may have as zeros, however few its connections


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """One dense layer. reads: stages whose outputs, side by side, are its inputs; -1 is the net's input."""

    dense: Dense
    reads: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Converted:
    """model: what computes the net.  stages: its dense layers in order, weights folded; out: those that are the answer.

    For each connection: stage (-1: feeds nothing that is an output), row (-1: bias) and column of its weight there,
    and `scale`, by which the file's number was multiplied.  held: neurons whose sum is held within FANN's bound.
    """

    model: Mlp | Graph
    stages: tuple[Stage, ...]
    out: tuple[int, ...]
    stage: I32
    row: I32
    column: I32
    scale: F64
    held: int


@dataclass(slots=True)
class _Group:
    """Neurons of one layer with one activation, which become one dense layer (or two, where sums are held)."""

    layer: int
    activation: int
    units: I32
    hold: bool = False
    stage: int = -1
    out: int = -1


@dataclass(slots=True)
class _Plan:
    """What is known of a net before any weight is placed.

    into: target of each connection.  constant: neurons that are 1 whatever comes in.  groups: in order.
    """

    net: Net
    into: I32
    layers: I32
    constant: NDArray[np.bool_]
    groups: list[_Group] = field(default_factory=list)
    group_of: I32 = field(default_factory=lambda: np.empty(0, np.int32))


def convert(net: Net, *, scaled: bool = False, who: str = "") -> Converted:
    """The model that computes `net`, as fann_run does.

    scaled: with the file's scaling folded in, so that it takes and gives the values of the training data.
    Raises ModelError (weights past float32, no scaling in the file), LimitError (too large as layers).
    """
    if scaled and not net.scaled:
        raise ModelError("scale_included: expected 1, since the scaling is to be applied, found none", who=who)
    try:
        with np.errstate(all="ignore"):  # what is past float32 is refused where a layer is made
            return _Converter(_plan(net)).run(scaled)
    except ModelError as error:
        raise ModelError(str(error), who=who) if not error.who and who else error from None


def _plan(net: Net) -> _Plan:
    layers = layer_of_neurons(net)
    constant = net.num_inputs == 0
    constant[: net.inputs] = False
    plan = _Plan(net, targets(net), layers, constant)
    plan.group_of = np.full(len(layers), -1, np.int32)
    first = first_neurons(net)
    last = len(net.layer_sizes) - 1
    for layer in range(1, last + 1):
        if layer == last:
            units = np.arange(first[layer], first[layer] + net.outputs, dtype=np.int32)
        else:
            units = np.arange(first[layer], first[layer + 1], dtype=np.int32)
            units = units[~constant[units]]
        kinds = np.where(constant[units], 0, net.activations[units])  # an output that nothing feeds is linear, 1
        for kind in dict.fromkeys(kinds.tolist()):
            group = _Group(layer, int(kind), units[kinds == kind])
            plan.group_of[group.units] = len(plan.groups)
            plan.groups.append(group)
    _find_held(plan)
    return plan


def _find_held(plan: _Plan) -> None:
    """Say of each group whether FANN's bound on its sums can show in its answers."""
    net = plan.net
    weights = np.abs(net.weights) / net.multiplier
    largest = np.ones(len(plan.layers))
    largest[: net.inputs] = INPUT_RANGE
    ends = np.cumsum(net.num_inputs)
    for group in plan.groups:
        kind = OF_FANN[group.activation]
        steep = net.steepness[group.units] / net.multiplier
        sums = np.array(
            [
                float(weights[end - count : end] @ largest[net.sources[end - count : end]])
                for end, count in zip(ends[group.units].tolist(), net.num_inputs[group.units].tolist(), strict=True)
            ]
        )
        bound = SUM_MAX / steep
        group.hold = bool(((steep * sums > bound) & (bound < kind.settled)).any())
        if kind.largest == np.inf:
            largest[group.units] = np.minimum(np.minimum(steep * sums, bound), np.finfo(np.float32).max)


class _Converter:
    """Places the weights of a plan, group by group."""

    def __init__(self, plan: _Plan) -> None:
        self.plan = plan
        self.net = plan.net
        count = len(plan.into)
        self.stages: list[Stage] = []
        self.stage = np.full(count, -1, np.int32)
        self.row = np.full(count, -1, np.int32)
        self.column = np.zeros(count, np.int32)
        self.scale = np.zeros(count)
        self.order = np.argsort(plan.group_of[plan.into], kind="stable")
        self.ends = np.searchsorted(plan.group_of[plan.into][self.order], np.arange(len(plan.groups)), side="right")

    def run(self, scaled: bool) -> Converted:
        chain = self._is_chain()
        self._check_size(chain)
        for index, group in enumerate(self.plan.groups):
            start = int(self.ends[index - 1]) if index else int((self.plan.group_of[self.plan.into] < 0).sum())
            self._place(group, self.order[start : self.ends[index]], chain)
        outputs = [group for group in self.plan.groups if group.layer == len(self.net.layer_sizes) - 1]
        out = self._in_order(outputs)
        if scaled:
            out = self._scaled(out)
        model = self._mlp(out) or self._graph(out)
        held = sum(len(group.units) for group in self.plan.groups if group.hold)
        return Converted(model, tuple(self.stages), out, self.stage, self.row, self.column, self.scale, held)

    def _is_chain(self) -> bool:
        """Whether every layer reads the one before it alone."""
        plan = self.plan
        real = ~plan.constant[plan.net.sources]
        used = plan.group_of[plan.into] >= 0
        every = {group.layer for group in plan.groups} == set(range(1, len(plan.net.layer_sizes)))
        steps = plan.layers[plan.into] - plan.layers[plan.net.sources]
        return every and bool((steps[real & used] == 1).all())

    def _check_size(self, chain: bool) -> None:
        """Raises LimitError before anything is made of a net that is small as a file and huge as layers."""
        widths = [self.net.inputs] + [0] * (len(self.net.layer_sizes) - 1)
        for group in self.plan.groups:
            widths[group.layer] += len(group.units)
        total = 0
        for group in self.plan.groups:
            reads = widths[group.layer - 1] if chain else sum(widths[: group.layer])
            total += (reads + 1 + (len(group.units) + 1) * group.hold) * len(group.units)
        if 4 * total > AF_SECTION_BYTES_MAX:
            raise LimitError(f"weights: at most {AF_SECTION_BYTES_MAX} bytes (AF_SECTION_BYTES_MAX), found {4 * total}")
        most = FANN_SPARSE_RATIO_MAX * len(self.plan.into) + _SMALL
        if total > most:
            raise LimitError(
                f"weights: at most {most} for {len(self.plan.into)} connections (FANN_SPARSE_RATIO_MAX a connection), "
                f"found {total}"
            )

    def _reads(self, layer: int, chain: bool) -> tuple[tuple[int, ...], NDArray[np.int64]]:
        """The stages that a group of `layer` reads, and where each neuron's value lies among their outputs (or -1)."""
        where = np.full(len(self.plan.layers), -1, np.int64)
        reads, width = [], 0
        if not chain or layer == 1:
            reads.append(-1)
            where[: self.net.inputs] = np.arange(self.net.inputs)
            width = self.net.inputs
        for group in self.plan.groups:
            if group.layer == layer - 1 if chain else group.layer < layer:
                reads.append(group.out)
                where[group.units] = width + np.arange(len(group.units))
                width += len(group.units)
        return tuple(reads), where

    def _place(self, group: _Group, connections: NDArray[np.int64], chain: bool) -> None:
        """Make the dense layer, or the two, of a group."""
        net, kind = self.net, OF_FANN[group.activation]
        reads, where = self._reads(group.layer, chain)
        width = sum(self.net.inputs if stage < 0 else self.stages[stage].dense.outputs for stage in reads)
        column_of = np.zeros(len(self.plan.layers), np.int64)
        column_of[group.units] = np.arange(len(group.units))
        steep = net.steepness[group.units] / net.multiplier
        bound = np.where(steep > 0, SUM_MAX / steep, 1.0) if group.hold else np.ones(len(group.units))
        factor = steep / bound if group.hold else steep * kind.factor
        group.stage = len(self.stages)
        columns = column_of[self.plan.into[connections]]
        self.stage[connections] = group.stage
        self.column[connections] = columns
        self.row[connections] = where[net.sources[connections]]
        self.scale[connections] = factor[columns] / net.multiplier
        fixed = np.where(self.plan.constant[group.units], 1.0, 0.0)
        weights, bias = self._folded(connections, (width, len(group.units)), fixed)
        if not group.hold:
            self.stages.append(Stage(Dense(weights, bias, kind.name), reads))
        else:
            self.stages.append(Stage(Dense(weights, bias, "linear_piece_symmetric"), reads))
            back = np.diag(bound * kind.factor).astype(np.float32)
            self.stages.append(Stage(Dense(back, np.zeros(len(back), np.float32), kind.name), (group.stage,)))
        group.out = len(self.stages) - 1

    def _folded(
        self, connections: NDArray[np.int64], shape: tuple[int, int], fixed: F64
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Weights and bias of a stage from the file's numbers.  fixed: added to the bias."""
        rows, columns = self.row[connections], self.column[connections]
        return fold(self.net.weights[connections] * self.scale[connections], rows, columns, shape, fixed)

    def _in_order(self, groups: Sequence[_Group]) -> tuple[int, ...]:
        """The stages that side by side are the answer; a stage that puts the neurons in order where groups mix."""
        units = np.concatenate([group.units for group in groups])
        reads = tuple(group.out for group in groups)
        if (np.diff(units) > 0).all():
            return reads
        order = np.zeros((len(units), len(units)), np.float32)
        order[np.arange(len(units)), units - units.min()] = 1.0
        self.stages.append(Stage(Dense(order, np.zeros(len(units), np.float32), "linear"), reads))
        return (len(self.stages) - 1,)

    def _scaled(self, out: tuple[int, ...]) -> tuple[int, ...]:
        """Fold the file's scaling into the stages that read the input and into the answer."""
        slope, offset = input_scale(self.net)
        for index, stage in enumerate(self.stages):
            if -1 in stage.reads:
                self.stages[index] = Stage(scaled_in(stage.dense, slope, offset), stage.reads)
        last = self.stages[-1]
        slope, offset = output_scale(self.net)
        if out == (len(self.stages) - 1,) and last.dense.activation == "linear":
            self.stages[-1] = Stage(scaled_out(last.dense, slope, offset), last.reads)
            return out
        self.stages.append(Stage(scaled_out(None, slope, offset), out))
        return (len(self.stages) - 1,)

    def _mlp(self, out: tuple[int, ...]) -> Mlp | None:
        """The stages as an Mlp, where each reads the one before it."""
        if len(self.stages) > LAYERS_MAX or out != (len(self.stages) - 1,):
            return None
        if any(stage.reads != (index - 1,) for index, stage in enumerate(self.stages)):
            return None
        return Mlp(tuple(stage.dense for stage in self.stages))

    def _graph(self, out: tuple[int, ...]) -> Graph:
        """The stages as dense nodes; what is read side by side is a concat, the longer ones of the shorter ones."""
        builder = Builder(Tensor((self.net.inputs,)))
        tensors: dict[tuple[int, ...], int] = {(-1,): 0}

        def joined(reads: tuple[int, ...]) -> int:
            if reads not in tensors:
                known = max((size for size in range(1, len(reads)) if reads[:size] in tensors), default=1)
                parts = [joined(reads[:known])] + [joined((index,)) for index in reads[known:]]
                tensors[reads] = builder.add("concat", parts)
            return tensors[reads]

        for index, stage in enumerate(self.stages):
            tensors[(index,)] = builder.dense(joined(stage.reads), stage.dense)
        return builder.graph(joined(out))


def fold(
    products: F64, rows: NDArray[np.int32], columns: NDArray[np.int32], shape: tuple[int, int], fixed: F64
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Sums of `products` at (row, column), row -1 being the bias, rounded once: float32[shape] and float32[shape[1]].

    Raises ModelError where one is past float32.
    """
    full = np.zeros((shape[0] + 1, shape[1]))
    full[0] = fixed
    with np.errstate(over="ignore", invalid="ignore"):
        np.add.at(full, (rows + 1, columns), products)
        small = full.astype(np.float32)
    if not np.isfinite(small).all():
        raise ModelError("weights: expected numbers that times steepness a float32 can hold, found larger ones")
    return small[1:], small[0]
