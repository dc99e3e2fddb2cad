"""What can be done about an operator that is not imported."""

from __future__ import annotations

_DELEGATE = "the file can run in a jail of policy `delegate`, where the device has LiteRT"
_HINTS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("custom",), "convert it without custom and Select TF operators"),
    (("ARG_MAX", "ARG_MIN", "TOPK_V2"), "leave it out: an agent's `decision: argmax` does it behind the model"),
    (
        ("UNIDIRECTIONAL", "BIDIRECTIONAL", "LSTM", "RNN", "WHILE", "IF", "CALL"),
        "convert it with the loop unrolled (Keras: unroll=True), or replace it by convolutions over time",
    ),
    (
        ("VAR_HANDLE", "READ_VARIABLE", "ASSIGN"),
        "convert it without state, as a net over a whole window (agent import --stream then takes frame by frame)",
    ),
    (("SQRT", "RSQRT", "SQUARED_DIFFERENCE"), "take batch normalisation, which converters fold into weights"),
    (("NON_MAX", "DETECTION"), "leave it out: do it behind the model, where the answers are"),
    (("DENSIFY",), "its weights are sparse: convert it without sparsity"),
    (("BATCH_MATMUL", "RESIZE_BILINEAR", "CONV_3D"), "replace it by operators that can"),
)


def hint(name: str) -> str:
    """One or two ways out, as half a sentence."""
    found = [text for starts, text in _HINTS if name.startswith(starts)]
    return ", or ".join([*(found[:1] or ["replace it in the model"]), _DELEGATE])
