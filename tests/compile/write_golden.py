"""Write wasm_kernels/golden/dense_f32.json from the definition of the deterministic mode: `python write_golden.py`.

The diff is read before it is committed: bits that change are a promise broken, unless the mode itself was changed.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from edgeswarm.assets import asset
from edgeswarm.compile.bits import forward_bits
from edgeswarm.model import ACTIVATIONS, Dense, Mlp, random_mlp, random_rows

ABOUT = (
    "What kernels of the mode `deterministic` answer, to the bit (float32 as hexadecimal words, one text a row). "
    "networks: model.random_mlp(sizes, activation, output_activation, seed) on model.random_rows(rows, sizes[0], "
    "seed). activations: an identity layer of width 1 (softmax: 4), so a row of inputs reaches the activation as it is."
)
NETWORKS = (
    ([784, 128, 64, 32, 10], "sigmoid", "softmax"),
    ([784, 128, 64, 32, 10], "relu", "linear"),
    ([4, 8, 3], "tanh", "softmax"),
    ([8, 16, 8], "sigmoid", "sigmoid"),
    ([1, 1], "sigmoid", "tanh"),
    ([5, 7, 3, 9, 2], "softmax", "relu"),
    ([13, 33, 50, 17], "tanh", "linear"),
    ([64] * 9, "sigmoid", "linear"),
    ([9, 21, 6], "gelu", "sin"),
    ([7, 30, 5], "gaussian", "elliott_symmetric"),
    ([6, 11, 10], "cos_symmetric", "sigmoid_stepwise"),
)
SPECIAL = [0.0, -0.0, 1e-40, -1e-38, 3e-5, -0.25, 0.5, 1.0, -2.0, 7.5, -9.02, 9.1, 16.9, -17.5, 88.0, -3e38]
INFINITE = [np.inf, -np.inf, np.nan]


def words(row: np.ndarray) -> str:
    return " ".join(f"{word:08x}" for word in np.ascontiguousarray(row, np.float32).view(np.uint32))


def identity(activation: str) -> Mlp:
    """A layer that passes finite rows to the activation as they are: -0 + x is x for every x, -0 among them."""
    width = 4 if activation == "softmax" else 1
    return Mlp((Dense(np.eye(width, dtype=np.float32), np.full(width, -0.0, np.float32), activation),))


def table() -> dict[str, object]:
    networks = []
    for seed, (sizes, activation, output_activation) in enumerate(NETWORKS, start=1):
        rows = forward_bits(random_mlp(sizes, activation, output_activation, seed), random_rows(3, sizes[0], seed))
        networks.append(
            {
                "sizes": sizes,
                "activation": activation,
                "output_activation": output_activation,
                "seed": seed,
                "rows": len(rows),
                "bits": [words(row) for row in rows],
                "first_values": [round(float(value), 6) for value in rows[0][:4]],
            }
        )
    activations = []
    for name in ACTIVATIONS:
        model = identity(name)
        inputs = np.array(SPECIAL + INFINITE + [0.0] * (name == "softmax"), np.float32).reshape(-1, model.sizes[0])
        outputs = forward_bits(model, inputs)
        activations.append({"activation": name, "inputs": words(inputs.ravel()), "bits": words(outputs.ravel())})
    return {"about": ABOUT, "networks": networks, "activations": activations}


def text() -> str:
    """The table as JSON, one network or activation a line."""
    parts = []
    for key, value in table().items():
        lines = ",\n  ".join(map(json.dumps, value)) if isinstance(value, list) else ""
        parts.append(f' "{key}": [\n  {lines}\n ]' if isinstance(value, list) else f' "{key}": {json.dumps(value)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def path() -> Path:
    return asset("wasm_kernels", "golden") / "dense_f32.json"


if __name__ == "__main__":
    path().write_text(text())
