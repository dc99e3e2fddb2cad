"""Mutated agent files, modules and compiled code: refused, or right, or found out; the supervisor outlives them all.

`make soak` tries 10,000 of each, `make test` 500.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from pathlib import Path
from typing import Any

import jail_kernels as k
import pytest
from mutants import batches, mutant
from supervised import header_tree

from edgeswarm import agentfile
from edgeswarm.app import builder
from edgeswarm.app.golden import check_golden
from edgeswarm.app.shelf import check_kernel
from edgeswarm.compile import check_module, read_layout
from edgeswarm.drivers import keys
from edgeswarm.drivers.jail_cache import CwasmCache
from edgeswarm.drivers.jails import JailHost, JailStartError, KernelSpec
from edgeswarm.errors import AgentFileError, EdgeSwarmError, KernelError, LimitError, NotSignedError, SignatureError
from edgeswarm.jail.frames import Kind

TOGETHER = 4  # jails at a time
DEADLINE_MS = 300
MARKERS = (
    b"\n---BINARY_SECTION:wasm_kernel---\n",
    b"\n---BINARY_SECTION:signature---\n",
    b"%EdgeSwarm-AF 1\n",
    b": &a [*a]",
)


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> keys.SigningKey:
    return keys.load_or_make(tmp_path_factory.mktemp("keys") / "publisher.key")[0]


@pytest.fixture(scope="module")
def whole(publisher: keys.SigningKey) -> bytes:
    """A signed agent file with kernel, weights and golden vectors."""
    model = builder.model_of(None, sizes=(4, 8, 2), activation="relu", output_activation="linear")
    return builder.build(header_tree("a", 4, 2, hidden=(8,)), model, key=publisher)


def spec_of(file: agentfile.AgentFile, code: bytes) -> KernelSpec:
    layout = read_layout(file.section("wasm_kernel"))
    return KernelSpec(0, "a", code, layout, file.section("neural_weights"), deadline_ms=DEADLINE_MS)


def golden_inputs(file: agentfile.AgentFile) -> list[bytes]:
    golden = file.section("golden")
    return [golden[at : at + 16] for at in range(0, len(golden), 24)]


async def answers(spawn: Any, spec: KernelSpec, rows: list[bytes], **more: Any) -> list[bytes]:
    """Of each row alone, then of all in one frame.  Raises KernelError where the kernel faults, or cannot be loaded."""
    served = await spawn(spec, **more)
    try:
        if served.jail.faults:
            raise KernelError(served.jail.faults[0])
        frames = [(row, 1) for row in rows] + [(b"".join(rows), len(rows))]
        for seq, (payload, count) in enumerate(frames):
            if not served.jail.alive or not served.jail.submit(0, seq, count, payload):
                raise KernelError("its jail is gone")
            await served.until(lambda seq=seq: len(served.replies) > seq or bool(served.exits))
            if served.exits or served.replies[-1].kind != Kind.REPLY:
                raise KernelError("it faulted")
        return [reply.payload for reply in served.replies]
    finally:
        await served.jail.close()


async def in_turns(numbers: range, one: Any) -> Counter[str]:
    """What became of each mutant, TOGETHER at a time."""
    gate, tally = asyncio.Semaphore(TOGETHER), Counter[str]()

    async def guarded(number: int) -> None:
        async with gate:
            tally[await one(number)] += 1

    async with asyncio.TaskGroup() as group:
        for number in numbers:
            group.create_task(guarded(number))
    assert tally.total() == len(numbers)
    return tally


@pytest.mark.e2e
@pytest.mark.parametrize("numbers", batches())
async def test_a_mutated_agent_file_is_refused_or_answers_as_the_whole_one(
    host: JailHost, spawn: Any, whole: bytes, publisher: keys.SigningKey, numbers: range
) -> None:
    """With a signature that holds nothing may differ; a mutant that lost its signature must still answer rightly."""
    file = agentfile.read(whole)
    right = None
    trusted = {agentfile.key_id(publisher.public): publisher.public}
    for number in numbers:
        text = mutant(whole, number, among=MARKERS)
        try:
            found = agentfile.read(text)
            agentfile.verify(found, trusted)
        except NotSignedError:
            pass
        except (AgentFileError, LimitError, SignatureError):
            continue
        else:
            raise AssertionError(f"mutant {number} keeps a signature that holds")
        try:
            check_kernel(found, who="mutant")
            check_module(found.section("wasm_kernel"), who="mutant")
            spec = spec_of(found, await host.compile(found.section("wasm_kernel")))
            await check_golden(spec, found, host)
        except EdgeSwarmError:
            continue
        if right is None:
            good = spec_of(file, await host.compile(file.section("wasm_kernel")))
            right = await answers(spawn, good, golden_inputs(file))
        assert await answers(spawn, spec, golden_inputs(file)) == right, f"mutant {number}"
    assert host.zygote_starts == 1


@pytest.mark.e2e
@pytest.mark.parametrize("numbers", batches())
async def test_a_mutated_module_is_refused_or_faults_or_is_found_out_by_golden_vectors(
    host: JailHost, spawn: Any, whole: bytes, numbers: range
) -> None:
    """As if a publisher had signed it.  What passes its golden vectors answers rightly, alone and in batches."""
    file = agentfile.read(whole)
    wasm = file.section("wasm_kernel")
    rows = golden_inputs(file)
    right = await answers(spawn, spec_of(file, await host.compile(wasm)), rows)

    async def one(number: int) -> str:
        text = mutant(wasm, number)
        try:
            layout = read_layout(text)
            check_module(text)
        except (KernelError, LimitError):
            return "refused before any jail"
        try:
            code = await host.compile(text, deadline_s=10)
        except EdgeSwarmError:
            return "refused by the build jail"
        try:
            spec = KernelSpec(0, "mutant", code, layout, file.section("neural_weights"), deadline_ms=DEADLINE_MS)
            await check_golden(spec, file, host)
        except EdgeSwarmError:
            return "found out"
        try:
            found = await answers(spawn, spec, rows)
        except EdgeSwarmError:
            return "faults"
        allowed = file.header.golden
        for got, want in zip(k.values(b"".join(found)), k.values(b"".join(right)), strict=True):
            close = math.isclose(got, want, rel_tol=2 * allowed.relative, abs_tol=2 * allowed.absolute)
            assert close, f"mutant {number} passes its golden vectors with wrong answers"
        return "right"

    tally = await in_turns(numbers, one)
    assert tally["refused before any jail"] + tally["refused by the build jail"] > 0
    assert host.zygote_starts == 1
    assert await answers(spawn, spec_of(file, await host.compile(wasm)), rows) == right


@pytest.mark.parametrize("numbers", batches())
def test_a_mutated_file_of_the_code_cache_never_reaches_deserialisation(
    host_cache: tuple[CwasmCache, Path, bytes], numbers: range
) -> None:
    cache, path, wasm = host_cache
    content = path.read_bytes()
    before = cache.rejected
    for number in numbers:
        path.write_bytes(mutant(content, number))
        assert cache.get(wasm) is None, f"mutant {number}"
        assert not path.exists()
    assert cache.rejected - before == len(numbers)
    path.write_bytes(content)
    assert cache.get(wasm) is not None


@pytest.fixture
def host_cache(tmp_path: Path) -> tuple[CwasmCache, Path, bytes]:
    """A cache with one entry, its file, and the wasm that it is for."""
    from edgeswarm.drivers.jail_cache import binding_here

    cache = CwasmCache(tmp_path, k.MAC_KEY, binding_here(policy_digest="p"))
    cache.put(b"\0asm", bytes(range(256)) * 64)
    (path,) = tmp_path.iterdir()
    return cache, path, b"\0asm"


@pytest.mark.e2e
@pytest.mark.parametrize("numbers", batches())
async def test_mutated_code_past_its_mac_may_end_its_jail_and_nothing_else(
    host: JailHost, spawn: Any, moody: bytes, numbers: range
) -> None:
    """The MAC check is left out here: broken machine code is run.

    It may crash, fault, loop, or answer wrongly, which is why there is a MAC; its jail may die of it.  The host, its
    zygote and other jails do not notice.
    """
    neighbour = await spawn(k.moody_spec(moody))
    rows = [k.row(k.ADD, 1.5), k.row(k.ADD, 3.0)]
    right = await answers(spawn, k.moody_spec(moody), rows)
    assert right[0] == k.row(3.0, 0.0)

    async def one(number: int) -> str:
        try:
            found = await answers(spawn, k.moody_spec(mutant(moody, number), deadline_ms=DEADLINE_MS), rows)
        except JailStartError:
            return "ended its jail"
        except EdgeSwarmError:
            return "refused or faulted"
        return "right" if found == right else "wrong"

    await in_turns(numbers, one)
    assert host.zygote_starts == 1
    assert (await neighbour.ask(0, 1, rows[0])).payload == right[0]
    assert host.jails == (neighbour.jail,)
