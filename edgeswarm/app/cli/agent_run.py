"""`edgeswarm agent run|bench`: a kernel in a jail, on a file of rows or on rows made up, without a supervisor.

`run` is what parity checks use: one row of output per row of input, in order, whatever the batches were.
"""

from __future__ import annotations

import random
import time
from array import array
from pathlib import Path
from typing import Any

import click

from edgeswarm.app.cli import jailed, output, tables, tables_out

BATCH_BYTES = 1 << 20  # of rows read, computed and written at a time, the larger of input and output
BATCH_ROWS = 4_096
BENCH_ROWS = (1, 16, 256)
BENCH_CALLS_MIN, BENCH_CALLS_MAX = 20, 100_000
WARM_CALLS = 10

format_choice = click.Choice(tables.FORMATS)


@click.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="X.af")
@click.option(
    "-i", "--input", "source", required=True, metavar="FILE", help="Rows: .csv, .jsonl or .npy; - is standard input."
)
@click.option(
    "-o", "--output", "out", required=True, metavar="FILE", help="Answers: .csv, .jsonl or .npy; - is standard output."
)
@click.option("--input-format", type=format_choice, help="Where the name does not say it.")
@click.option("--output-format", type=format_choice, help="Where the name does not say it (standard output: csv).")
@click.option("--memory", is_flag=True, help="Rows are frames: the jail feeds the agent's memory back, row by row.")
@output.state_option
@output.config_option
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON (beside -o -: on standard error).")
def run(
    file: Path,
    source: str,
    out: str,
    input_format: str | None,
    output_format: str | None,
    memory: bool,
    state: Path | None,
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Compute every row of a file in a jail; one row of output per row of input, in the same order.

    Rows are the kernel's inputs as they are: no window, no normalisation, no decision; but for --memory the values of
    an agent's memory are the last ones of each row, and answers are not fed back.  A row of the wrong width, NaN or
    infinity ends it with the row's number (exit code 3), and no output file.

    \b
    Examples:
      edgeswarm agent run digits.af --input test.npy --output scores.npy
      edgeswarm agent run digits.af -i rows.csv -o - | head
      edgeswarm agent run tcn.af -i frames.csv -o answers.csv --memory
    """
    agent, layout = jailed.read_runnable(file, state, config_file)
    kept = agent.header.memory.width if memory else 0
    widths = (layout.input.width - kept, layout.output.width - kept)
    step = max(1, min(BATCH_ROWS, BATCH_BYTES // (4 * (max(widths) + kept))))
    rows = 0
    with (
        tables.open_rows(source, width=widths[0], kind=input_format) as reader,
        jailed.open_kernel(agent, layout, state, config_file, rows_max=step, memory=kept) as ready,
        tables_out.create_rows(out, width=widths[1], kind=output_format) as writer,
        output.progress(reader.size, "computing", quiet=as_json) as advance,
    ):
        tier, at = ready.host.tier, 0
        began = time.perf_counter()
        for batch in reader.batches(step):
            answers = ready.rows(batch.payload, batch.rows, first=batch.first, who=source)
            writer.write(_without(answers, 4 * widths[1], 4 * kept) if kept else answers, batch.rows)
            rows += batch.rows
            advance(batch.progress - at)
            at = batch.progress
        seconds = time.perf_counter() - began
    rate = rows / seconds if seconds else 0.0
    row = {
        "agent": agent.header.name,
        "rows": rows,
        "seconds": round(seconds, 6),
        "rows_per_s": round(rate, 1),
        "tier": tier,
        "input_width": widths[0],
        "output_width": widths[1],
        "output": out,
    }
    text = f"{rows} rows of {widths[0]} values -> {out}, {seconds:.3f} s, {rate:,.0f} rows/s, tier {tier}"
    click.echo(output.rendered(row, as_json=as_json, text=lambda: text), err=out == "-")


def _without(answers: bytes, size: int, kept: int) -> bytes:
    """The first `size` bytes of each row of size + kept."""
    return b"".join(answers[at : at + size] for at in range(0, len(answers), size + kept))


# --- bench -----------------------------------------------------------------------------------------------------------


@click.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="X.af")
@click.option(
    "--seconds", type=click.FloatRange(0.05, 600), default=1.0, show_default=True, help="For each batch size."
)
@click.option("--rows", type=click.IntRange(1, BATCH_ROWS), multiple=True, help="Batch size; may be given repeatedly.")
@click.option("--against", type=click.Choice(["litert"]), help="Measure LiteRT beside it, in turns (one row a call).")
@click.option("--model", type=click.Path(path_type=Path), help="Its .tflite file, where X.af does not carry it.")
@click.option("--delegates", is_flag=True, help="Only decide who computes it here: the kernel or a delegate.")
@output.state_option
@output.config_option
@output.json_option
def bench(
    file: Path,
    seconds: float,
    rows: tuple[int, ...],
    against: str | None,
    model: Path | None,
    delegates: bool,
    state: Path | None,
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Measure an agent file in a jail: time of one call of 1, 16 and 256 rows, there and back, and memory.

    Input is the file's golden vectors, else numbers between -1 and 1.  With --delegates the kernel and the delegates of
    the settings compute the golden vectors, the fastest that is right is chosen, and the supervisor of the state
    directory goes by that from its agents' next start on (docs/delegates.md).

    \b
    Examples:
      edgeswarm agent bench digits.af
      edgeswarm agent bench digits.af --rows 1 --rows 64 --seconds 5 --json
      edgeswarm agent bench kws.af --against litert
      edgeswarm agent bench kws.af --delegates
    """
    if model is not None and against is None:
        raise click.UsageError("--model is for --against")
    from edgeswarm.app.cli import agent_against

    if delegates:
        from edgeswarm.app.cli import agent_delegates

        found = agent_delegates.hold(file, state, config_file)
        output.emit(found, as_json=as_json, text=lambda: agent_delegates.text(found))
        return
    other = agent_against.model_of(file, model) if against else b""
    agent, layout = jailed.read_runnable(file, state, config_file)
    sizes = rows or tuple(dict.fromkeys(min(size, layout.batch_max) for size in BENCH_ROWS))
    inputs = bench_input(agent, layout.input.width, max(sizes))
    with (
        jailed.open_kernel(agent, layout, state, config_file, rows_max=max(sizes)) as ready,
        output.progress(len(sizes), "measuring", quiet=as_json) as advance,
    ):
        started_ms, tier = round(ready.jail.started_ms, 2), ready.host.tier
        measured = []
        for size in sizes:
            measured.append(_measure(ready, inputs[: 4 * size * layout.input.width], size, seconds))
            advance(1)
        memory = ready.jail.memory_bytes()
        beside = agent_against.measure(ready, agent, other, inputs, seconds) if against else None
    row = {
        "agent": agent.header.name,
        "tier": tier,
        "jail_ready_ms": started_ms,
        "jail_memory_bytes": memory,
        "kernel_memory_bytes": layout.memory_bytes,
        "weights_bytes": layout.weights.size,
        "batches": measured,
        "against": beside,
    }
    output.emit(row, as_json=as_json, text=lambda: _bench_text(row, measured))


def bench_input(agent: Any, width: int, rows: int) -> bytes:
    """rows x width float32: the golden vectors' inputs over and over, else pseudo-random ones."""
    golden = agent.sections.get("golden", b"")
    size, step = 4 * width, 4 * (width + agent.header.neural_config.output_size)
    if len(golden) >= step:
        one = b"".join(golden[at : at + size] for at in range(0, len(golden), step))
    else:
        rng = random.Random(1)
        one = array("f", (rng.uniform(-1, 1) for _ in range(width * min(rows, 16)))).tobytes()
    return (one * (size * rows // len(one) + 1))[: size * rows]


def _measure(ready: jailed.Ready, payload: bytes, rows: int, seconds: float) -> dict[str, Any]:
    call = ready.jail.call
    for _ in range(WARM_CALLS):
        call(0, payload, rows)
    took_ns: list[int] = []
    until = time.perf_counter_ns() + int(seconds * 1e9)
    now = time.perf_counter_ns()
    while (now < until or len(took_ns) < BENCH_CALLS_MIN) and len(took_ns) < BENCH_CALLS_MAX:
        call(0, payload, rows)
        after = time.perf_counter_ns()
        took_ns.append(after - now)
        now = after
    took_ns.sort()
    total = sum(took_ns)
    return {
        "rows": rows,
        "calls": len(took_ns),
        "p50_us": round(took_ns[len(took_ns) // 2] / 1e3, 2),
        "p99_us": round(took_ns[min(len(took_ns) - 1, len(took_ns) * 99 // 100)] / 1e3, 2),
        "rows_per_s": round(rows * len(took_ns) / total * 1e9, 1),
        "ns_per_row": round(took_ns[len(took_ns) // 2] / rows, 1),
    }


def _bench_text(row: dict[str, Any], measured: list[dict[str, Any]]) -> str:
    cells = [
        (one["rows"], one["calls"], one["p50_us"], one["p99_us"], f"{one['rows_per_s']:,.0f}", one["ns_per_row"])
        for one in measured
    ]
    header = ("rows a call", "calls", "p50 µs", "p99 µs", "rows/s", "ns a row (p50)")
    memory = f"jail {output.size(row['jail_memory_bytes'])}, of it kernel {output.size(row['kernel_memory_bytes'])}"
    parts = [
        output.table(header, cells, right=range(6)),
        f"agent {row['agent']}, tier {row['tier']}, jail ready in {row['jail_ready_ms']} ms, private memory: {memory}",
    ]
    if row["against"] is not None:
        from edgeswarm.app.cli import agent_against

        parts.append(agent_against.text(row["against"]))
    return "\n\n".join(parts)
