"""The golden check: a kernel is loaded, and computes its own golden vectors, in a jail before it may see a sample.

Once row by row and once in batches, where it takes them: a kernel whose `run` is right may have a wrong `run_batch`.
"""

from __future__ import annotations

import asyncio
import math
from array import array
from dataclasses import replace

from edgeswarm.agentfile.file import AgentFile
from edgeswarm.drivers.jails import JailExit, JailHost, KernelSpec, Reply
from edgeswarm.errors import KernelError
from edgeswarm.jail.frames import Kind
from edgeswarm.limits import JAIL_READY_MS_MAX


async def check_golden(spec: KernelSpec, file: AgentFile, host: JailHost) -> None:
    """Raises KernelError with row, column, expected and found, or with what keeps the jail from loading the kernel.

    No section `golden` is no fault.
    """
    golden = file.sections.get("golden", b"")
    header = file.header
    width_in, width_out = header.neural_config.input_size, header.neural_config.output_size
    values = array("f")
    values.frombytes(golden)
    step = width_in + width_out
    rows = len(values) // step
    bare = replace(spec, memory_width=0)  # golden rows hold the memory they start from
    answers = await _answers(
        bare, header.sandbox, [values[i * step : i * step + width_in].tobytes() for i in range(rows)], host
    )
    for index, answer in enumerate(answers):
        row = index % rows
        found = array("f")
        found.frombytes(answer)
        expected = values[row * step + width_in : (row + 1) * step]
        for column, (want, got) in enumerate(zip(expected, found, strict=True)):
            if not math.isclose(want, got, rel_tol=header.golden.relative, abs_tol=header.golden.absolute):
                raise KernelError(
                    f"golden row {row} column {column}: expected {want:.9g}, found {got:.9g}", who=header.name
                )


async def _answers(spec: KernelSpec, policy: str, rows: list[bytes], host: JailHost) -> list[bytes]:
    """Of each row alone, then of all again in frames of several: `run` and `run_batch` are different code."""
    loop = asyncio.get_running_loop()
    waiting: dict[int, asyncio.Future[bytes]] = {}

    def replied(reply: Reply) -> None:
        future = waiting.pop(reply.seq, None)
        if future is None or future.done():
            return
        if reply.kind == Kind.REPLY:
            future.set_result(reply.payload)
        else:
            text = reply.payload.decode(errors="replace")
            future.set_exception(KernelError(f"golden row {reply.seq % len(rows)}: {text}", who=spec.name))

    def exited(exit_: JailExit) -> None:
        for future in waiting.values():
            if not future.done():
                future.set_exception(KernelError(f"the jail died on the golden vectors: {exit_.text}", who=spec.name))

    answers: list[bytes] = []
    jail = await host.spawn([spec], policy=policy, on_reply=replied, on_exit=exited)
    try:
        if jail.faults:
            raise KernelError(f"its jail cannot load it: {'; '.join(jail.faults.values())}", who=spec.name)
        size, step = spec.reply_bytes, min(spec.layout.batch_max, jail.rows_max(0))
        together = [rows[first : first + step] for first in range(0, len(rows), step)] if step > 1 else []
        for frame in [[row] for row in rows] + together:
            seq = len(answers)
            waiting[seq] = loop.create_future()
            jail.submit(0, seq, len(frame), b"".join(frame))
            async with asyncio.timeout(JAIL_READY_MS_MAX / 1000):
                answer = await waiting[seq]
            answers += [answer[at : at + size] for at in range(0, len(answer), size)]
        return answers
    except TimeoutError:
        text = f"golden row {len(answers) % len(rows)}: no answer within {JAIL_READY_MS_MAX} ms"
        raise KernelError(text, who=spec.name) from None
    finally:
        await jail.close()
