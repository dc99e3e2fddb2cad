"""What a FANN `.net` file holds, as types: every field, whether or not it matters for what the net computes.

The format is text: a line of version, one `key=value` line a parameter in a fixed order, then one long line of neurons
and one of connections.  A FLO file holds floating-point numbers, a FIX file whole multiples of 2^-decimal_point.
Invariants of a Net: as many neurons as the layers say, as many connections as the neurons say, every index in range.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

FLOAT_VERSIONS: Final = ("FANN_FLO_2.0", "FANN_FLO_2.1")
FIXED_VERSIONS: Final = ("FANN_FIX_2.0", "FANN_FIX_2.1")
"""libfann 2.2.0 writes FANN_FLO_2.1 and FANN_FIX_2.0."""

LAYERED, SHORTCUT = 0, 1
"""network_type: a bias neuron in every layer, or one in the input layer and connections from all layers before."""

NEURONS: Final = "neurons (num_inputs, activation_function, activation_steepness)"
CONNECTIONS: Final = "connections (connected_to_neuron, weight)"

Kind = Literal["count", "real", "value", "counts", "reals", "values"]
"""count: unsigned.  real: %f.  value: %.20e in a FLO file, whole in a FIX file.  counts, reals, values: lists."""

PARAMETERS: Final[Mapping[str, Kind]] = {
    "decimal_point": "count",
    "num_layers": "count",
    "learning_rate": "real",
    "connection_rate": "real",
    "network_type": "count",
    "learning_momentum": "real",
    "training_algorithm": "count",
    "train_error_function": "count",
    "train_stop_function": "count",
    "cascade_output_change_fraction": "real",
    "quickprop_decay": "real",
    "quickprop_mu": "real",
    "rprop_increase_factor": "real",
    "rprop_decrease_factor": "real",
    "rprop_delta_min": "real",
    "rprop_delta_max": "real",
    "rprop_delta_zero": "real",
    "cascade_output_stagnation_epochs": "count",
    "cascade_candidate_change_fraction": "real",
    "cascade_candidate_stagnation_epochs": "count",
    "cascade_max_out_epochs": "count",
    "cascade_min_out_epochs": "count",
    "cascade_max_cand_epochs": "count",
    "cascade_min_cand_epochs": "count",
    "cascade_num_candidate_groups": "count",
    "bit_fail_limit": "value",
    "cascade_candidate_limit": "value",
    "cascade_weight_multiplier": "value",
    "cascade_activation_functions_count": "count",
    "cascade_activation_functions": "counts",
    "cascade_activation_steepnesses_count": "count",
    "cascade_activation_steepnesses": "values",
    "layer_sizes": "counts",
    "scale_included": "count",
    "scale_mean_in": "reals",
    "scale_deviation_in": "reals",
    "scale_new_min_in": "reals",
    "scale_factor_in": "reals",
    "scale_mean_out": "reals",
    "scale_deviation_out": "reals",
    "scale_new_min_out": "reals",
    "scale_factor_out": "reals",
}
"""Every parameter in the order of the file."""

SCALING: Final = tuple(name for name in PARAMETERS if name.startswith("scale_") and name != "scale_included")
OPTIONAL: Final = frozenset(
    {"rprop_delta_zero", "cascade_min_out_epochs", "cascade_min_cand_epochs", "scale_included", *SCALING}
)
"""What older releases did not write.  decimal_point is there in FIX files alone, SCALING where scale_included is 1."""

ACTIVATION_NAMES: Final = (
    "FANN_LINEAR",
    "FANN_THRESHOLD",
    "FANN_THRESHOLD_SYMMETRIC",
    "FANN_SIGMOID",
    "FANN_SIGMOID_STEPWISE",
    "FANN_SIGMOID_SYMMETRIC",
    "FANN_SIGMOID_SYMMETRIC_STEPWISE",
    "FANN_GAUSSIAN",
    "FANN_GAUSSIAN_SYMMETRIC",
    "FANN_GAUSSIAN_STEPWISE",
    "FANN_ELLIOT",
    "FANN_ELLIOT_SYMMETRIC",
    "FANN_LINEAR_PIECE",
    "FANN_LINEAR_PIECE_SYMMETRIC",
    "FANN_SIN_SYMMETRIC",
    "FANN_COS_SYMMETRIC",
    "FANN_SIN",
    "FANN_COS",
    "FANN_LINEAR_PIECE_RECT",
    "FANN_LINEAR_PIECE_RECT_LEAKY",
)
"""By the number that a file holds.  The last two came after libfann 2.2.0."""

Value = int | float | tuple[int, ...] | tuple[float, ...]
I32 = NDArray[np.int32]
F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Net:
    """A file, parsed.

    parameters: of PARAMETERS, those that the file has, in its order.  layer_sizes: neurons of each layer, bias neurons
    among them.  num_inputs, activations (int32[neurons]), steepness (float64[neurons]): of each neuron.  sources
    (int32[connections]), weights (float64[connections]): of each connection, neuron by neuron.  In a FIX file the
    values of steepness and weights are whole numbers still: `multiplier` says what 1.0 is.
    """

    version: str
    parameters: Mapping[str, Value]
    num_inputs: I32
    activations: I32
    steepness: F64
    sources: I32
    weights: F64

    @property
    def fixed(self) -> bool:
        return self.version in FIXED_VERSIONS

    @property
    def multiplier(self) -> int:
        """What stands for 1.0."""
        return 1 << self.count("decimal_point") if self.fixed else 1

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        return self.counts("layer_sizes")

    @property
    def shortcut(self) -> bool:
        return self.count("network_type") == SHORTCUT

    @property
    def scaled(self) -> bool:
        return self.parameters.get("scale_included") == 1

    @property
    def inputs(self) -> int:
        """Values of a row: the input layer without its bias neuron."""
        return self.layer_sizes[0] - 1

    @property
    def outputs(self) -> int:
        """Values of an answer: the last layer, without the bias neuron that a layered net has there too."""
        return self.layer_sizes[-1] - (not self.shortcut)

    @property
    def as_float32(self) -> NDArray[np.float32]:
        """The weights as a float32 holds them, infinity where it cannot."""
        with np.errstate(over="ignore"):
            return self.weights.astype(np.float32)

    @property
    def single(self) -> bool:
        """Whether a float32 holds every weight."""
        return bool((self.as_float32 == self.weights).all())

    def count(self, name: str) -> int:
        value = self.parameters[name]
        assert isinstance(value, int)
        return value

    def counts(self, name: str) -> tuple[int, ...]:
        value = self.parameters[name]
        assert isinstance(value, tuple)
        return tuple(int(item) for item in value)

    def reals(self, name: str) -> F64:
        return np.array(self.parameters[name], dtype=np.float64)


def equal(one: Net, other: Net) -> bool:
    """Whether two nets hold the same in every field, to the bit."""
    arrays = ("num_inputs", "activations", "steepness", "sources", "weights")
    return (
        one.version == other.version
        and list(one.parameters.items()) == list(other.parameters.items())
        and all(getattr(one, name).tobytes() == getattr(other, name).tobytes() for name in arrays)
    )
