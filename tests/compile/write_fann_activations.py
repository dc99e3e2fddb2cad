"""Write golden/fann_activations.json with what libfann itself answers: `python write_fann_activations.py`.

Needs Debian's libfann2 (2.2.0 when the file was made).  A net of one neuron with weight 1 and bias 0 is asked.
"""

from __future__ import annotations

import ctypes
import json
from pathlib import Path

import numpy as np

PATH = Path(__file__).with_name("golden") / "fann_activations.json"
NAMES = {  # FANN's numbers, with the names they have here
    0: "linear",
    1: "threshold",
    2: "threshold_symmetric",
    3: "sigmoid",
    4: "sigmoid_stepwise",
    5: "tanh",
    6: "sigmoid_stepwise_symmetric",
    7: "gaussian",
    8: "gaussian_symmetric",
    10: "elliott",
    11: "elliott_symmetric",
    12: "linear_piece",
    13: "linear_piece_symmetric",
    14: "sin_symmetric",
    15: "cos_symmetric",
    16: "sin",
    17: "cos",
}
STEEPNESS = (0.5, 1.0, 0.3)
POINTS = (2.646652460098266602, 2.646652936935424805, 1.472219467163085938, 1.472219347953796387, 0.549306154251098633)


def words(values: np.ndarray) -> str:
    return " ".join(f"{word:08x}" for word in values.astype(np.float32).view(np.uint32))


def inputs() -> np.ndarray:
    """Numbers near 0, out to +-140, and the stepwise break points with their neighbours, at each steepness."""
    near = [
        np.nextafter(np.float32(sign * point / steepness), np.float32(9 * side)) if side else sign * point / steepness
        for point in POINTS
        for sign in (1, -1)
        for side in (-1, 0, 1)
        for steepness in (0.5, 1.0)
    ]
    return np.array([0.0, -0.0, *np.linspace(-7, 7, 57), *np.linspace(-140, 140, 29), *near], np.float32)


def table() -> dict[str, object]:
    library = ctypes.CDLL("libfloatfann.so.2")
    net_type, number = ctypes.c_void_p, ctypes.c_float
    library.fann_create_standard_array.restype = net_type
    library.fann_run.restype = ctypes.POINTER(number)
    library.fann_run.argtypes = [net_type, ctypes.POINTER(number)]
    library.fann_set_weight.argtypes = [net_type, ctypes.c_uint, ctypes.c_uint, number]
    library.fann_set_activation_function_output.argtypes = [net_type, ctypes.c_int]
    library.fann_set_activation_steepness_output.argtypes = [net_type, number]
    net = library.fann_create_standard_array(2, (ctypes.c_uint * 2)(1, 1))
    library.fann_set_weight(net, 0, 2, 1.0)
    library.fann_set_weight(net, 1, 2, 0.0)
    rows, cases = inputs(), []
    for code, name in NAMES.items():
        library.fann_set_activation_function_output(net, code)
        for steepness in STEEPNESS:
            library.fann_set_activation_steepness_output(net, steepness)
            answers = [library.fann_run(net, (number * 1)(float(value)))[0] for value in rows]
            cases.append({"activation": name, "steepness": steepness, "outputs": words(np.array(answers))})
    return {"about": "libfann 2.2.0 on these inputs (float32 words)", "inputs": words(rows), "cases": cases}


if __name__ == "__main__":
    PATH.write_text(json.dumps(table(), indent=1) + "\n")
