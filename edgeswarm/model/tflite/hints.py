"""What can be done about an operator that is not imported."""

from __future__ import annotations

_DELEGATE = "the file can run in a jail of policy `delegate`, where the device has LiteRT"
_HINTS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("custom",), "convert it without custom and Select TF operators"),
    (("ARG_MAX", "ARG_MIN", "TOPK_V2"), "leave it out: an agent's `decision: argmax` does it behind the model"),
    (
        (
            "UNIDIRECTIONAL",
            "BIDIRECTIONAL",
            "LSTM",
            "RNN",
            "WHILE",
            "IF",
            "CALL",
            "VAR_HANDLE",
            "READ_VARIABLE",
            "ASSIGN",
        ),
        "convert it with the loop unrolled (Keras: unroll=True), or replace it by convolutions over time",
    ),
    (("SQRT", "RSQRT", "SQUARED_DIFFERENCE"), "fold the normalisation into weights: convert the model for inference"),
    (("NON_MAX", "DETECTION"), "leave it out: do it behind the model, where the answers are"),
    (("BATCH_MATMUL", "TRANSPOSE_CONV", "RESIZE_BILINEAR", "CONV_3D"), "replace it by operators that are"),
)


def hint(name: str) -> str:
    """One or two ways out, as half a sentence."""
    found = [text for starts, text in _HINTS if name.startswith(starts)]
    return " or ".join([*found[:1], _DELEGATE]) if found else f"replace it in the model, or {_DELEGATE}"
