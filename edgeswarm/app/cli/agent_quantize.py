"""`agent build --quantize int8`: the options, the calibration file, and the table of what 8 bits cost.

The file's rows have the model's inputs, then nothing, or the class of the row (a whole number from 0), or the right
answers.  They calibrate and judge; nothing of them but the ranges goes into the agent file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeswarm.app.cli import output, tables
from edgeswarm.errors import InputError, LimitError
from edgeswarm.limits import CALIBRATION_VALUES_MAX

if TYPE_CHECKING:
    from edgeswarm.agentfile.header import Header, Quantization
    from edgeswarm.compile import Kernel
    from edgeswarm.model import Mlp
    from edgeswarm.model.calibrate import Report, Samples
    from edgeswarm.model.quantize import QuantizedMlp

KINDS = {"int8": ("i7x4", "i7", "exact"), "int8-7bit": ("i7x4", "i7"), "int8-exact": ("exact",)}
_BATCH_ROWS = 256


def quantize_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of --quantize, whose values `Wanted.take` picks out of a command's arguments."""
    options = (
        click.option(
            "--quantize",
            type=click.Choice(list(KINDS)),
            help="8-bit kernel: int8 takes the fastest path whose loss is small enough.  Needs --calibrate.",
        ),
        click.option(
            "--calibrate",
            type=click.Path(path_type=Path),
            help="Table of rows like those it will see: inputs, then nothing, a class, or the right answers.",
        ),
        click.option("--calibration", type=click.Choice(["minmax", "percentile"]), help="Ranges by.  Default: minmax."),
        click.option("--percentile", type=click.FloatRange(50, 100, min_open=True), help="Default: 99.9."),
        click.option("--max-loss", type=click.FloatRange(0, 1), help="Refuse past this loss.  Default: 0.01."),
        click.option("--force", is_flag=True, help="Build in spite of the loss."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for on the command line."""

    quantize: str | None = None
    calibrate: Path | None = None
    calibration: str | None = None
    percentile: float | None = None
    max_loss: float | None = None
    force: bool = False

    @classmethod
    def take(cls, options: dict[str, Any]) -> Wanted:
        """Takes its own out of `options`.  Raises UsageError for options that contradict each other."""
        names = ("quantize", "calibrate", "calibration", "percentile", "max_loss", "force")
        wanted = cls(**{name: options.pop(name) for name in names})
        if wanted.quantize is None and wanted != cls():
            raise click.UsageError("--calibrate, --calibration, --percentile, --max-loss and --force need --quantize")
        if wanted.quantize is not None and wanted.calibrate is None:
            raise click.UsageError("--quantize needs --calibrate FILE: rows like those the agent will see")
        if wanted.percentile is not None and wanted.calibration != "percentile":
            raise click.UsageError("--percentile needs --calibration percentile")
        return wanted


@dataclass(frozen=True, slots=True)
class Quantized:
    """The kernel, the model in whole numbers, what the header says of it, and what each path that was tried cost."""

    kernel: Kernel
    model: QuantizedMlp
    block: Quantization
    reports: list[Report]

    @property
    def row(self) -> dict[str, Any]:
        """For --json."""
        return {**asdict(self.block), "tried": [asdict(report) for report in self.reports]}


def quantized(header: Header, model: Mlp, wanted: Wanted, *, mode: str, batch_max: int) -> Quantized:
    """Raises LimitError where the loss passes the bound and --force is not given; InputError for a bad file."""
    from edgeswarm.agentfile.header import Quantization
    from edgeswarm.compile.lower_i8 import compile_i8
    from edgeswarm.model import calibrate

    assert wanted.quantize is not None and wanted.calibrate is not None
    paths = KINDS[wanted.quantize]
    if mode == "deterministic":
        if "exact" not in paths:
            raise click.UsageError("mode deterministic takes int8-exact: the 7-bit paths need a relaxed operation")
        paths = ("exact",)
    method = wanted.calibration or "minmax"
    percentile = calibrate.PERCENTILE_DEFAULT if wanted.percentile is None else wanted.percentile
    loss_max = calibrate.LOSS_MAX_DEFAULT if wanted.max_loss is None else wanted.max_loss
    samples = read_samples(header, model, wanted.calibrate)
    found, reports = calibrate.choose(
        model, samples, method=method, percentile=percentile, loss_max=loss_max, paths=paths
    )
    taken = next(report for report in reports if report.path == found.path)
    output.note(table(reports, taken))
    if taken.loss > loss_max and not wanted.force:
        raise LimitError(
            f"{header.name}: loss: at most {loss_max:g} (--max-loss), found {taken.loss:.4g} ({taken.measure}) "
            f"on the best path, {taken.path}; more or other rows, --calibration percentile, or --force"
        )
    block = Quantization(
        path=found.path,  # type: ignore[arg-type]  # one of PATHS
        calibration=method,  # type: ignore[arg-type]  # one of METHODS
        percentile=percentile if method == "percentile" else 100.0,
        rows=taken.rows,
        loss=taken.loss,
        loss_max=loss_max,
        error_mean=taken.error_mean,
        error_max=taken.error_max,
    )
    return Quantized(compile_i8(found, batch_max=batch_max, mode=mode), found, block, reports)


def read_samples(header: Header, model: Mlp, path: Path) -> Samples:
    """The calibration file.  Raises InputError naming row and column, LimitError for one that is too large."""
    import numpy as np

    from edgeswarm.model.calibrate import Samples

    inputs, outputs = model.sizes[0], model.sizes[-1]
    data, width = _read_table(str(path), model)
    values = np.frombuffer(data, "<f4").reshape(-1, width)
    rows, rest = values[:, :inputs].copy(), values[:, inputs:]
    classifies = outputs > 1 and (model.activations[-1] == "softmax" or header.wiring.decision.type == "argmax")
    if width == inputs:
        return Samples(rows, classifies=classifies)
    if width == inputs + outputs:
        one_hot = outputs > 1 and bool(((rest == 0) | (rest == 1)).all() and (rest.sum(axis=1) == 1).all())
        classes = rest.argmax(axis=1) if one_hot else None
        return Samples(rows, classes, None if one_hot else rest.copy(), classifies or one_hot)
    wrong = (rest[:, 0] != np.floor(rest[:, 0])) | (rest[:, 0] < 0) | (rest[:, 0] >= outputs)
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(
            f"row {row + 1}: expected a class from 0 to {outputs - 1} as the last value, found {rest[row, 0]:g}",
            who=str(path),
        )
    return Samples(rows, rest[:, 0].astype(np.int64), None, True)


def _read_table(path: str, model: Mlp) -> tuple[bytes, int]:
    """The table's values and its width, which is one of those that make sense for the model."""
    inputs, outputs = model.sizes[0], model.sizes[-1]
    widths = {inputs: "the inputs", inputs + outputs: "inputs and right answers"}
    if outputs > 1:
        widths[inputs + 1] = "inputs and a class"
    most = 4 * CALIBRATION_VALUES_MAX
    try:
        found = os.stat(path)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", who=path) from None
    if not stat.S_ISREG(found.st_mode):  # a pipe is empty the second time, and may never end
        raise InputError("expected a file of calibration rows, which is read more than once, found none", who=path)
    if found.st_size > 16 * most:  # no text of a number that counts is so long
        raise LimitError(f"{path}: at most {16 * most} bytes of calibration rows, found {found.st_size}")
    faults: list[InputError] = []
    for width in widths:
        data = bytearray()
        try:
            with tables.open_rows(path, width=width) as reader:
                for batch in reader.batches(_BATCH_ROWS):
                    data += batch.payload
                    if len(data) // (4 * width) * max(model.sizes) > CALIBRATION_VALUES_MAX:
                        raise LimitError(
                            f"{path}: at most {CALIBRATION_VALUES_MAX // max(model.sizes)} calibration rows for this "
                            "model (CALIBRATION_VALUES_MAX), found more"
                        )
            return bytes(data), width
        except InputError as error:
            if f"expected {width} values" not in str(error) and f"shape (rows, {width})" not in str(error):
                raise  # the width was right: what is wrong is the value
            faults.append(error)
    further = [fault for fault in faults if "row 1 " not in str(fault)]  # of this width at least at the beginning
    said = ", ".join(f"{width} values ({what})" for width, what in widths.items())
    raise InputError(f"{(further or faults)[0]}; a calibration file has rows of {said}")


def table(reports: list[Report], taken: Report) -> str:
    """What float32 and each path that was tried answer on the calibration rows."""
    return "\n".join(_lines(reports, taken))


def _lines(reports: list[Report], taken: Report) -> Iterator[str]:
    first = reports[0]
    yield f"int8 against float32 on {first.rows} calibration rows:"
    if first.accuracy_before is not None:
        yield f"  float32: accuracy {first.accuracy_before:.4f}"
    if first.target_error_before is not None:
        yield f"  float32: mean error against the right answers {first.target_error_before:.4g}"
    for report in reports:
        parts = []
        if report.accuracy_after is not None:
            parts.append(f"accuracy {report.accuracy_after:.4f}")
        if report.target_error_after is not None:
            parts.append(f"mean error against the right answers {report.target_error_after:.4g}")
        if report.agreement is not None:
            parts.append(f"same greatest answer {report.agreement:.4f}")
        parts.append(f"error mean {report.error_mean:.3g} max {report.error_max:.3g}")
        parts.append(f"loss {report.loss:.4g}")
        yield f"  {report.path:<6} {', '.join(parts)}{'  <- taken' if report is taken else ''}"
    yield f"  loss: {taken.measure}"
