"""The text of a FANN `.net` file -> Net, or an error that says the line and the field.

Decides whether a file is whole and means something; what it computes is `convert.py`'s.  Invariants: nothing is made
for a declared size, only for what the file really holds; every number is finite and in range.  Raises ModelError
("line 34: layer_sizes: expected ..., found ...") and LimitError, nothing else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np

from edgeswarm.errors import LimitError, ModelError
from edgeswarm.limits import (
    FANN_CASCADE_CHOICES_MAX,
    FANN_DECIMAL_POINT_MAX,
    FANN_FILE_BYTES_MAX,
    LAYER_WIDTH_MAX,
    SHORTCUT_LAYERS_MAX,
)
from edgeswarm.model.fann.check import check, in_order
from edgeswarm.model.fann.net import (
    ACTIVATION_NAMES,
    CONNECTIONS,
    F64,
    FIXED_VERSIONS,
    FLOAT_VERSIONS,
    I32,
    LAYERED,
    NEURONS,
    OPTIONAL,
    PARAMETERS,
    SCALING,
    SHORTCUT,
    Kind,
    Net,
    Value,
)

_UNSIGNED: Final = re.compile(r"[0-9]{1,10}")
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,10}")
_REAL: Final = re.compile(r"[+-]?(?:[0-9]{1,400}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,4})?")
_NEURON: Final = re.compile(r"\(([^(),]{1,500}), ?([^(),]{1,500}), ?([^(),]{1,500})\) *")
_CONNECTION: Final = re.compile(r"\(([^(),]{1,500}), ?([^(),]{1,500})\) *")
_QUICK: Final = re.compile(r"\(([0-9]{1,9}), (-?[0-9]\.[0-9]{20}e[-+][0-9]{2,3})\) ")
_PIECE_CHARS: Final = 1 << 20
_SHOWN: Final = 40
_U32_MAX: Final = (1 << 32) - 1
_I32_MAX: Final = (1 << 31) - 1


def parse(data: bytes, *, who: str = "") -> Net:
    """The net in `data`.  who: names the file in errors."""
    return parse_parts(data, None, None, who=who)


def parse_parts(text: bytes, sources: I32 | None, weights: F64 | None, *, who: str = "") -> Net:
    """The net in `text`; sources and weights, where given, stand for its connections, of which it has none.

    With `weights` alone, all neurons take those of the layer before (or of all layers) in order.
    """
    if len(text) > FANN_FILE_BYTES_MAX:
        raise LimitError(f"{who or 'FANN file'}: at most {FANN_FILE_BYTES_MAX} bytes (FANN_FILE_BYTES_MAX)")
    parser = _Parser(text, who)
    net = parser.net(sources, weights)
    check(net, who=who)
    return net


def is_fann(data: bytes) -> bool:
    """Whether a file begins as a FANN net does, of whatever version."""
    return data.startswith((b"FANN_FLO_", b"FANN_FIX_"))


class _Parser:
    """One walk over the lines.  line: of the file, 1-based.  fixed: whether values are whole numbers."""

    def __init__(self, data: bytes, who: str) -> None:
        self.who = who
        self.line = 1
        try:
            self.lines = data.decode("ascii").split("\n")
        except UnicodeDecodeError as error:
            self.line += data.count(b"\n", 0, error.start)
            raise self.error("text", "ASCII text", f"the byte 0x{data[error.start]:02x}") from None
        self.fixed = False

    def error(self, field: str, expected: str, found: object) -> ModelError:
        shown = found if not isinstance(found, str) else found[:_SHOWN] + ("..." if len(found) > _SHOWN else "")
        return ModelError(f"line {self.line}: {field}: expected {expected}, found {shown}", who=self.who)

    def past(self, field: str, bound: int, name: str, found: int) -> LimitError:
        where = f"{self.who}: " if self.who else ""
        return LimitError(f"{where}line {self.line}: {field}: at most {bound} ({name}), found {found}")

    def net(self, given_sources: I32 | None, given_weights: F64 | None) -> Net:
        version = self.lines[0].rstrip("\r ")
        if version not in FLOAT_VERSIONS + FIXED_VERSIONS:
            known = ", ".join((*FLOAT_VERSIONS, *FIXED_VERSIONS))
            raise self.error("version", f"one of {known}", repr(version[:_SHOWN]))
        self.fixed = version in FIXED_VERSIONS
        parameters: dict[str, Value] = {}
        for name, kind in PARAMETERS.items():
            if name == "decimal_point" and not self.fixed:
                continue
            text = self.value_of(name)
            if text is None:
                if name in SCALING and parameters.get("scale_included") == 1:
                    raise self.error(name, f"{name}= after scale_included=1", repr(self.peek()[:_SHOWN]))
                continue
            if name in SCALING and parameters.get("scale_included") != 1:
                raise self.error(name, "no scaling parameters without scale_included=1", "some")
            parameters[name] = self.parsed(name, kind, text)
            self.check(name, parameters)
        sizes = parameters["layer_sizes"]
        assert isinstance(sizes, tuple)
        inputs, activations, steepness = self.neurons(tuple(int(size) for size in sizes))
        outline = Net(
            version,
            parameters,
            np.array(inputs, np.int32),
            np.array(activations, np.int32),
            np.array(steepness, np.float64),
            np.empty(0, np.int32),
            np.empty(0, np.float64),
        )
        if given_weights is not None:
            return self.joined(outline, given_sources, given_weights)
        sources, weights = self.connections(inputs, sum(int(size) for size in sizes))
        self.end()
        return replace(outline, sources=sources, weights=weights)

    def joined(self, outline: Net, sources: I32 | None, weights: F64) -> Net:
        """`outline` with connections from elsewhere, which must fit it."""
        if there := self.value_of(CONNECTIONS):
            raise self.error("connections", "none beside those given", repr(there[:_SHOWN]))
        self.end()
        expected = sum(outline.num_inputs.tolist())
        if len(weights) != expected or (sources is not None and len(sources) != expected):
            raise self.error("weights", f"{expected} (the num_inputs of all neurons)", len(weights))
        if not np.isfinite(weights).all():
            raise self.error("weights", "finite numbers", "others")
        if sources is None:
            sources = in_order(outline)
        if ((sources < 0) | (sources >= len(outline.num_inputs))).any():
            raise self.error("sources", f"neurons from 0 to {len(outline.num_inputs) - 1}", "others")
        return replace(outline, sources=sources, weights=weights)

    # --- lines -------------------------------------------------------------------------------------------------------

    def peek(self) -> str:
        """The line after the one read last; empty at the end."""
        return self.lines[self.line].rstrip("\r ") if self.line < len(self.lines) else ""

    def value_of(self, name: str) -> str | None:
        """What stands behind `name=` in the next line, which is then read; None where an optional line is absent."""
        text = self.peek()
        if not text.startswith(name + "="):
            if name in OPTIONAL:
                return None
            self.line += 1
            raise self.error(name, f"{name}=", repr(text[:_SHOWN]) if text else "the end of the file")
        self.line += 1
        return text[len(name) + 1 :]

    def end(self) -> None:
        for text in self.lines[self.line :]:
            self.line += 1
            if text.rstrip("\r "):
                raise self.error("text", "the end of the file", repr(text[:_SHOWN]))

    # --- numbers -----------------------------------------------------------------------------------------------------

    def parsed(self, name: str, kind: Kind, text: str) -> Value:
        match kind:
            case "count":
                return self.count(name, text)
            case "real":
                return self.real(name, text)
            case "value":
                return self.value(name, text)
            case "counts":
                return tuple(self.count(name, item) for item in text.split())
            case "reals":
                return tuple(self.real(name, item) for item in text.split())
            case "values":
                return tuple(self.value(name, item) for item in text.split())

    def count(self, name: str, text: str, high: int = _U32_MAX) -> int:
        if not _UNSIGNED.fullmatch(text) or int(text) > high:
            raise self.error(name, f"a whole number from 0 to {high}", repr(text))
        return int(text)

    def real(self, name: str, text: str) -> float:
        if not _REAL.fullmatch(text):
            hint = "a number with a decimal point, not a comma" if "," in text else "a finite number"
            raise self.error(name, hint, repr(text))
        number = float(text)
        if not math.isfinite(number):
            raise self.error(name, "a number that a double can hold", repr(text))
        return number

    def value(self, name: str, text: str) -> float:
        """A number of the net's own type."""
        if not self.fixed:
            return self.real(name, text)
        if not _WHOLE.fullmatch(text) or not -(1 << 31) <= int(text) < 1 << 31:
            raise self.error(name, "a whole number of 32 bits (a FIX file has no other)", repr(text))
        return int(text)

    # --- what parameters must be -------------------------------------------------------------------------------------

    def check(self, name: str, parameters: dict[str, Value]) -> None:
        value = parameters[name]
        match name:
            case "decimal_point":
                assert isinstance(value, int)
                if value > FANN_DECIMAL_POINT_MAX:
                    raise self.past(name, FANN_DECIMAL_POINT_MAX, "FANN_DECIMAL_POINT_MAX", value)
            case "num_layers":
                assert isinstance(value, int)
                if value < 2:
                    raise self.error(name, "2 or more", value)
                if value > SHORTCUT_LAYERS_MAX + 1:
                    raise self.past(name, SHORTCUT_LAYERS_MAX + 1, "SHORTCUT_LAYERS_MAX + 1", value)
            case "network_type":
                if value not in (LAYERED, SHORTCUT):
                    raise self.error(name, "0 (layered) or 1 (shortcut)", value)
            case "connection_rate":
                assert isinstance(value, float)
                if value < 0:
                    raise self.error(name, "0 or more", value)
            case "cascade_activation_functions" | "cascade_activation_steepnesses":
                self.check_choices(name, parameters)
            case "layer_sizes":
                self.check_sizes(parameters)
            case "scale_included":
                if value not in (0, 1):
                    raise self.error(name, "0 or 1", value)
            case _ if name in SCALING:
                assert isinstance(value, tuple)
                self.check_scaling(name, len(value), parameters)

    def check_choices(self, name: str, parameters: dict[str, Value]) -> None:
        found, declared = parameters[name], parameters[f"{name}_count"]
        assert isinstance(found, tuple) and isinstance(declared, int)
        if declared > FANN_CASCADE_CHOICES_MAX:
            raise self.past(f"{name}_count", FANN_CASCADE_CHOICES_MAX, "FANN_CASCADE_CHOICES_MAX", declared)
        if len(found) != declared:
            raise self.error(name, f"{declared} numbers ({name}_count)", len(found))

    def check_sizes(self, parameters: dict[str, Value]) -> None:
        sizes, declared = parameters["layer_sizes"], parameters["num_layers"]
        assert isinstance(sizes, tuple)
        if len(sizes) != declared:
            raise self.error("layer_sizes", f"{declared} numbers (num_layers)", len(sizes))
        layered = parameters["network_type"] == LAYERED
        for index, size in enumerate(sizes):
            least = 2 if index == 0 or (layered and index == len(sizes) - 1) else 1
            if size < least:
                raise self.error(f"layer_sizes[{index}]", f"{least} or more, bias neurons among them", size)
            if size > LAYER_WIDTH_MAX + 1:
                raise self.past(f"layer_sizes[{index}]", LAYER_WIDTH_MAX + 1, "LAYER_WIDTH_MAX + 1", int(size))
        room = sum(len(text) for text in self.lines[self.line :]) // len("(0,0,0)")
        if sum(sizes) > room:
            raise self.error("layer_sizes", f"at most {room} neurons, which the rest of the file can hold", sum(sizes))

    def check_scaling(self, name: str, found: int, parameters: dict[str, Value]) -> None:
        sizes = parameters["layer_sizes"]
        assert isinstance(sizes, tuple)
        at_end = parameters["network_type"] == LAYERED
        expected = sizes[0] - 1 if name.endswith("_in") else sizes[-1] - at_end
        if found != expected:
            raise self.error(name, f"{expected} numbers", found)

    # --- the two long lines ------------------------------------------------------------------------------------------

    def items(self, field: str, pattern: re.Pattern[str]) -> Iterator[tuple[str, ...]]:
        """The groups of every item of the next line, which must be `field=` and items without anything between."""
        text = self.value_of(field)
        assert text is not None
        short = field.split(" ", 1)[0]
        at = 0
        for index, found in enumerate(pattern.finditer(text)):
            if found.start() != at:
                break
            at = found.end()
            self.at = f"{short}[{index}]"
            yield found.groups()
        if at != len(text):
            form = field[field.index("(") :]
            raise self.error(short, f"items of the form {form}", f"{text[at:][:_SHOWN]!r} at column {at + 1}")

    def neurons(self, sizes: tuple[int, ...]) -> tuple[list[int], list[int], list[float]]:
        inputs: list[int] = []
        activations: list[int] = []
        steepness: list[float] = []
        expected = sum(sizes)
        for index, (count, activation, steep) in enumerate(self.items(NEURONS, _NEURON)):
            if index >= expected:
                raise self.error("neurons", f"{expected} neurons (layer_sizes)", "more")
            inputs.append(self.count(f"{self.at}.num_inputs", count, _I32_MAX))
            activations.append(self.count(f"{self.at}.activation_function", activation, len(ACTIVATION_NAMES) - 1))
            steepness.append(self.value(f"{self.at}.activation_steepness", steep))
            if index < sizes[0] and inputs[-1]:
                raise self.error(f"{self.at}.num_inputs", "0 in the input layer", inputs[-1])
        if len(inputs) != expected:
            raise self.error("neurons", f"{expected} neurons (layer_sizes)", len(inputs))
        return inputs, activations, steepness

    def connections(self, inputs: list[int], neurons: int) -> tuple[I32, F64]:
        expected = sum(inputs)
        quick = None if self.fixed else _quick(self.peek(), expected, neurons)
        if quick is not None:
            self.line += 1
            return quick
        sources: list[int] = []
        weights: list[float] = []
        for index, (source, weight) in enumerate(self.items(CONNECTIONS, _CONNECTION)):
            if index >= expected:
                raise self.error("connections", f"{expected} connections (the num_inputs of all neurons)", "more")
            sources.append(self.count(f"{self.at}.connected_to_neuron", source, neurons - 1))
            weights.append(self.value(f"{self.at}.weight", weight))
        if len(sources) != expected:
            raise self.error("connections", f"{expected} connections (the num_inputs of all neurons)", len(sources))
        return np.array(sources, np.int32), np.array(weights, np.float64)


def _quick(line: str, expected: int, neurons: int) -> tuple[I32, F64] | None:
    """The connections of a line as libfann writes it, six times as fast; None where anything at all is out of order.

    Piece by piece, so that the texts of few items exist at one time.
    """
    at = len(CONNECTIONS) + 1
    line += " "  # the last blank went with the line's end
    sources, weights = [np.empty(0, np.int64)], [np.empty(0)]
    while at < len(line):
        end = len(line) if len(line) - at < _PIECE_CHARS else line.rfind(") ", at, at + _PIECE_CHARS) + 2
        found = _QUICK.findall(line, at, end)
        if end <= at or sum(len(source) + len(weight) for source, weight in found) + 5 * len(found) != end - at:
            return None
        sources.append(np.array([int(source) for source, _ in found], np.int64))
        weights.append(np.array([float(weight) for _, weight in found]))
        at = end
    source, weight = np.concatenate(sources), np.concatenate(weights)
    if len(source) != expected or not np.isfinite(weight).all() or (source >= neurons).any():
        return None
    return source.astype(np.int32), weight
