"""In the place of LiteRT: a model is `FAKE` and one line of JSON, which says what it computes and how it misbehaves.

{"weights": [[...], ...], "bias": [...]}: out = weights x in + bias, by plain Python, so it is slower than any kernel
unless "free" is true: then the answer is that of the first row it was asked, and costs nothing.
{"bad": kind}: it crashes, hangs, answers wrongly, raises, or answers NaN; "after": so many calls, "when": its last
input is at least this, "at": "load": at once.
"""

from __future__ import annotations

import ctypes
import json
import time
from array import array
from typing import Any

np = None  # float32 models need none of it

_TINY = b"TFL3"


class Interpreter:
    """As much of LiteRT's as a jail's worker uses."""

    def __init__(self, *, model_content: bytes, num_threads: int = 1, experimental_delegates: Any = ()) -> None:
        self._calls = 0
        self._delegates = [one._get_native_delegate_pointer() for one in experimental_delegates or ()]
        if model_content[4:8] == _TINY:
            self._says: dict[str, Any] = {"weights": [[1, 1, 1, 1], [1, -1, 1, -1]], "bias": [0.5, -0.5]}
        elif model_content.startswith(b"FAKE"):
            self._says = json.loads(model_content[4:])
        else:
            raise ValueError("Model provided has model identifier '', should be 'TFL3'")
        if self._says.get("at") == "load":
            self._misbehave()
        weights = self._says["weights"]
        self._in = array("f", bytes(4 * len(weights[0])))
        self._out = array("f", bytes(4 * len(weights)))

    def allocate_tensors(self) -> None:
        """There is nothing to do."""

    def get_input_details(self) -> list[dict[str, Any]]:
        return [self._details(0, len(self._in))]

    def get_output_details(self) -> list[dict[str, Any]]:
        return [self._details(1, len(self._out))]

    def _details(self, index: int, width: int) -> dict[str, Any]:
        return {"index": index, "shape": (1, width), "dtype": "float32", "quantization": (0.0, 0)}

    def tensor(self, index: int) -> Any:
        return lambda: (self._in, self._out)[index]

    def invoke(self) -> None:
        self._calls += 1
        says = self._says
        if not says.get("free") or self._calls <= says.get("honest", 64):
            for row, weights in enumerate(says["weights"]):
                self._out[row] = sum(w * x for w, x in zip(weights, self._in, strict=True)) + says["bias"][row]
        until = time.monotonic() + says.get("slow_ms", 0) / 1000  # a jail may not sleep
        while time.monotonic() < until:
            pass
        if (
            says.get("bad")
            and says.get("at") != "load"
            and self._calls > says.get("after", 0)
            and self._in[-1] >= says.get("when", -1e30)
        ):
            self._misbehave()

    def _misbehave(self) -> None:
        bad = self._says["bad"]
        if bad == "crash":
            ctypes.string_at(0)
        elif bad == "hang":
            while True:
                pass
        elif bad == "raise":
            raise RuntimeError("the fake runtime says no")
        elif bad == "nan":
            self._out[0] = float("nan")
        elif bad == "wrong":
            self._out[0] += 100.0
