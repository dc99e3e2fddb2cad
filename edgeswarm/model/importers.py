"""Models from elsewhere: .npz, JSON, and trained objects that look like scikit-learn's MLP classes.

Files are untrusted: sizes are checked before anything is unpacked, pickles are refused, every number must be finite.
Raises ModelError (with `who`, the file) or LimitError, nothing else.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from edgeswarm.errors import LimitError, ModelError
from edgeswarm.limits import AF_SECTION_BYTES_MAX, LAYERS_MAX, MODEL_FILE_BYTES_MAX
from edgeswarm.model.mlp import Mlp, from_arrays, mlp_of

_SKLEARN_ACTIVATIONS = {
    "identity": "linear",
    "logistic": "sigmoid",
    "relu": "relu",
    "softmax": "softmax",
    "tanh": "tanh",
}


def load_npz(
    path: str | Path, activation: str | None = None, output_activation: str | None = None, *, who: str = ""
) -> Mlp:
    """A model of the arrays w0, b0, w1, b1, ... (and, optionally, `activations`: one name a layer) of a .npz file.

    Weights have the shape (inputs, outputs).  Without the array `activations`, hidden layers take `activation`
    (default sigmoid) and the last `output_activation` (default linear); with it, these two must not be given.
    An array `steepness` has one number a layer; without it each is 1.
    """
    who = who or str(path)
    data = _read(path, who)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if len(entries) > 2 * LAYERS_MAX + 2:
                raise LimitError(f"{who}: at most {2 * LAYERS_MAX + 2} arrays (LAYERS_MAX), found {len(entries)}")
            total = sum(entry.file_size for entry in entries)
            if total > AF_SECTION_BYTES_MAX:
                raise LimitError(f"{who}: at most {AF_SECTION_BYTES_MAX} bytes (AF_SECTION_BYTES_MAX), found {total}")
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, EOFError, ValueError, KeyError, TypeError, SyntaxError, zipfile.BadZipFile, zlib.error) as error:
        raise ModelError(f"expected a .npz file of plain arrays, found {error}", who=who) from None
    except (NotImplementedError, RuntimeError, MemoryError, RecursionError) as error:
        raise ModelError(f"expected a .npz file that reads, found {type(error).__name__}: {error}", who=who) from None
    count = sum(1 for name in arrays if name.startswith("w"))
    wanted = {f"{letter}{index}" for index in range(count) for letter in "wb"}
    if set(arrays) - {"activations", "steepness"} != wanted or not count:
        found, others = ", ".join(sorted(arrays)) or "nothing", "`activations`, `steepness`"
        raise ModelError(f"arrays: expected w0, b0, w1, b1, ... in pairs (and {others}), found {found}", who=who)
    weights = [arrays[f"w{index}"] for index in range(count)]
    biases = [arrays[f"b{index}"] for index in range(count)]
    try:
        steepness = _steepness(arrays.get("steepness", np.ones(count)), count)
        if "activations" not in arrays:
            return from_arrays(weights, biases, activation or "sigmoid", output_activation or "linear", steepness)
        if activation or output_activation:
            raise ModelError("activations: the file names its own; give none besides")
        names = arrays["activations"]
        if names.shape != (count,) or names.dtype.kind != "U":
            raise ModelError(f"activations: expected {count} texts, found the shape {names.shape} of {names.dtype}")
        return mlp_of(weights, biases, [str(name) for name in names], steepness)
    except ModelError as error:
        raise ModelError(str(error), who=who) from None


def save_npz(model: Mlp, path: str | Path) -> None:
    """Write what `load_npz` reads: w0, b0, ..., `activations`, and `steepness` where one is not 1."""
    arrays: dict[str, Any] = {"activations": np.array(model.activations)}
    if any(steepness != 1.0 for steepness in model.steepness):
        arrays["steepness"] = np.array(model.steepness, np.float32)
    for index, layer in enumerate(model.layers):
        arrays[f"w{index}"], arrays[f"b{index}"] = layer.weights, layer.bias
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def load_json(path: str | Path, *, who: str = "") -> Mlp:
    """A model of {"layers": [{"weights": [[...]], "bias": [...], "activation": "relu"}, ...]}.

    A layer may have a `steepness`, a number; without it, it is 1.
    """
    who = who or str(path)
    try:
        tree = json.loads(_read(path, who).decode())
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ModelError(f"expected JSON in UTF-8, found {error}", who=who) from None
    layers = tree.get("layers") if isinstance(tree, dict) and set(tree) == {"layers"} else None
    if not isinstance(layers, list) or not all(
        isinstance(layer, dict) and set(layer) - {"steepness"} == {"weights", "bias", "activation"} for layer in layers
    ):
        raise ModelError('expected {"layers": [{"weights": ..., "bias": ..., "activation": ...}, ...]}', who=who)
    try:
        return mlp_of(
            [layer["weights"] for layer in layers],
            [layer["bias"] for layer in layers],
            [layer["activation"] for layer in layers],
            [layer.get("steepness", 1.0) for layer in layers],
        )
    except ModelError as error:
        raise ModelError(str(error), who=who) from None


def save_json(model: Mlp, path: str | Path) -> None:
    """Write what `load_json` reads.  A float32 survives the way through a decimal text."""
    layers = [
        {"weights": layer.weights.tolist(), "bias": layer.bias.tolist(), "activation": layer.activation}
        | ({"steepness": layer.steepness} if layer.steepness != 1.0 else {})
        for layer in model.layers
    ]
    Path(path).write_text(json.dumps({"layers": layers}) + "\n")


def from_sklearn(estimator: Any) -> Mlp:
    """The model of a trained scikit-learn MLPClassifier or MLPRegressor, or of anything with the same attributes.

    Read are coefs_, intercepts_, activation and out_activation_.  A binary classifier has one sigmoid output.
    """
    values = {}
    for name in ("coefs_", "intercepts_", "activation", "out_activation_"):
        if not hasattr(estimator, name):
            raise ModelError(f"{type(estimator).__name__}: expected a trained network with `{name}`, found none")
        values[name] = getattr(estimator, name)
    names = []
    for key in ("activation", "out_activation_"):
        if values[key] not in _SKLEARN_ACTIVATIONS:
            known = ", ".join(sorted(_SKLEARN_ACTIVATIONS))
            raise ModelError(f"{key}: expected one of {known}, found {values[key]!r}")
        names.append(_SKLEARN_ACTIVATIONS[values[key]])
    return from_arrays(list(values["coefs_"]), list(values["intercepts_"]), names[0], names[1])


def _steepness(array: Any, count: int) -> list[float]:
    """One number a layer; what they may be is for Dense to say."""
    if array.shape != (count,) or array.dtype.kind not in "fiu":
        raise ModelError(f"steepness: expected {count} numbers, found the shape {array.shape} of {array.dtype}")
    return [float(value) for value in array]


def _read(path: str | Path, who: str) -> bytes:
    """The file's bytes, at most MODEL_FILE_BYTES_MAX of them."""
    try:
        with open(path, "rb") as file:
            data = file.read(MODEL_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", who=who) from None
    if len(data) > MODEL_FILE_BYTES_MAX:
        raise LimitError(f"{who}: at most {MODEL_FILE_BYTES_MAX} bytes (MODEL_FILE_BYTES_MAX)")
    return data
