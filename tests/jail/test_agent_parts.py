"""Parts of the jail's own code that need no jail: finiteness, specifications, sizes, tiers, the library."""

from __future__ import annotations

import math
import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import jail_kernels as k
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.drivers import jail_zygote
from edgeswarm.drivers.jail_life import how_it_ended, parse_told
from edgeswarm.drivers.jail_link import JailLink, KernelSpec, ring_bytes_for
from edgeswarm.errors import JailError, TierError
from edgeswarm.jail import enter, kernel, tiers, trial, wasm
from edgeswarm.jail.agent import Agent, AgentSpec, CallFaultError, Ticks, all_finite
from edgeswarm.jail.frames import FaultCode
from edgeswarm.jail.zygote import is_mapped


@settings(max_examples=200)
@given(st.lists(st.integers(0, 2**32 - 1), max_size=40))
def test_finiteness_agrees_with_looking_at_every_value(words: list[int]) -> None:
    content = struct.pack(f"<{len(words)}I", *words)
    assert all_finite(content) == all(map(math.isfinite, k.values(content)))


@pytest.mark.parametrize("value", [3.4e38, -3.4e38, 1.8e38, 0.0, -0.0, 1e-45])
def test_the_largest_values_are_finite(value: float) -> None:
    assert all_finite(struct.pack("<f", value) * 1000)
    assert not all_finite(struct.pack("<f", value) * 1000 + struct.pack("<f", math.inf))
    assert not all_finite(struct.pack("<2f", math.inf, -math.inf))


SPEC: dict[str, Any] = {
    "slot": 0, "name": "a", "input": [0, 8, 2], "output": [64, 4, 1], "weights_offset": 128, "weights_bytes": 4,
    "batch_max": 4, "memory_limit_bytes": 65536, "deadline_ms": 10, "memory_width": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"input": [0, 4, 2]}, "overlap"),
        ({"input": [-4, 8, 2]}, "whole float32"),
        ({"input": [2, 8, 2]}, "whole float32"),
        ({"output": [0, 4, 0]}, "whole float32"),
        ({"weights_bytes": -1}, "negative"),
        ({"batch_max": 0}, "at least 1"),
        ({"deadline_ms": 0}, "at least 1"),
        ({"memory_width": 2}, "does not fit"),
        ({"slot": "x"}, "expected the fields"),
        ({"input": None}, "expected the fields"),
    ],
)
def test_an_impossible_agent_is_refused_by_the_jail(change: dict[str, Any], text: str) -> None:
    assert AgentSpec.from_json(SPEC).input.end(4) == 32
    with pytest.raises(JailError, match=text):
        AgentSpec.from_json(SPEC | change)


def test_rings_are_sized_for_the_largest_agent() -> None:
    def spec(width: int, batch_max: int) -> KernelSpec:
        layout = replace(
            k.LAYOUT,
            batch_max=batch_max,
            input=k.abi.Rows(0, 4 * width, width),
            output=k.abi.Rows(1 << 28, 4, 1),
            weights=k.abi.Weights(0, 0, (0,)),
            memory_bytes=1 << 29,
        )
        return KernelSpec(0, "a", b"", layout, b"")

    assert ring_bytes_for([spec(4, 256)]) == 64 * 1024
    assert ring_bytes_for([spec(784, 256)]) == 1 << 20
    assert 2 << 20 <= ring_bytes_for([spec(65_536, 16)]) < 4 << 20


def test_an_image_wider_than_the_rings_of_the_profile_gets_larger_ones() -> None:
    width = 224 * 224 * 3
    layout = replace(
        k.LAYOUT,
        batch_max=1,
        input=k.abi.Rows(0, 4 * width, width),
        output=k.abi.Rows(4 * width, 4, 1),
        weights=k.abi.Weights(0, 0, (0,)),
        memory_bytes=1 << 20,
    )
    link = JailLink(1, [KernelSpec(0, "wide", b"", layout, b"")], ring_bytes=64 << 10)
    try:
        assert link.rows_max(0) == 1
    finally:
        link.close()


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"7", b'{"ready": {}}', b'{"ready": {"performed": 1}, "faults": {}}', b"{" * 2000, b"\xff",
     b'{"ready": {"performed": [], "absent": [], "stamps_us": []}, "faults": {"x": "y"}}',
     b'{"ready": {"performed": [], "absent": [], "stamps_us": [7]}, "faults": {}}',
     b'{"ready": {"performed": [], "absent": [], "stamps_us": [["Load", "soon"]]}, "faults": {}}',
     b'{"ready": {"performed": [], "absent": 1, "stamps_us": []}, "faults": {}}'],
)  # fmt: skip
def test_what_a_jail_says_of_itself_is_checked(text: bytes) -> None:
    assert parse_told(text) is None


def test_a_refusal_is_cut_to_its_bound() -> None:
    assert parse_told(b'{"failed": "' + b"x" * 5000 + b'"}') == {"failed": "x" * 1000, "invalid": ""}


def test_how_a_jail_ended_says_the_worst_first() -> None:
    assert how_it_ended(None, 31, lie="head", reason="killed") == "broke the protocol: head"
    assert "SIGSYS" in how_it_ended(None, 31, lie="", reason="killed")
    assert how_it_ended(None, 9, lie="", reason="killed") == "killed"
    assert how_it_ended(None, 11, lie="", reason="") == "ended by signal 11"
    assert how_it_ended(3, None, lie="", reason="") == "ended with code 3"
    assert how_it_ended(None, None, lie="", reason="") == "ended, nobody knows how"


# --- tiers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missing", "tier"),
    [((), "A"), (("namespaces",), "B"), (("namespaces", "landlock"), "C"), (("landlock",), "C"), (("seccomp",), "D")],
)
def test_the_tier_follows_from_what_worked(missing: tuple[str, ...], tier: str) -> None:
    tried = {name: tiers.Tried(name not in missing, "") for name in tiers.LAYERS}
    assert tiers.tier_of(tried) == tier


def hello(tier: str, *, works: bool = True) -> dict[str, Any]:
    return {"tier": tier, "layers": {"seccomp": [tier != "D", "because"], "wasmtime": [works, "it panicked"]}}


def test_a_weaker_tier_may_be_asked_for_a_stronger_one_not() -> None:
    assert jail_zygote.choose_tier(hello("A"), None) == "A"
    assert jail_zygote.choose_tier(hello("A"), "C") == "C"
    with pytest.raises(TierError, match="tier A was asked for, this machine offers B"):
        jail_zygote.choose_tier(hello("B"), "A")
    with pytest.raises(TierError, match="expected A, B or C"):
        jail_zygote.choose_tier(hello("A"), "D")
    with pytest.raises(TierError, match=r"no seccomp filters \(because\)"):
        jail_zygote.choose_tier(hello("D"), None)
    with pytest.raises(JailError, match="it panicked"):
        jail_zygote.choose_tier(hello("A", works=False), None)


def test_an_id_is_mapped_or_not() -> None:
    assert is_mapped("         0          0 4294967295\n", 300_000)
    assert not is_mapped("0 1000 1\n1 100000 65536\n", 300_000)
    assert is_mapped("0 1000 1\n1 100000 65536\n", 65_536)


def test_a_trial_that_dies_is_a_layer_that_is_missing() -> None:
    def dies() -> str:
        os.kill(os.getpid(), 9)
        return "never"

    assert tiers.in_child(dies, None) == tiers.Tried(False, "the trial ended with -9")
    assert tiers.in_child(lambda: "fine", None) == tiers.Tried(True, "fine")


# --- the library ----------------------------------------------------------------------------------------------------


def test_a_library_that_is_none_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "_libwasmtime.so"
    broken.write_bytes(b"\x7fELF")
    with pytest.raises(wasm.WasmError, match="_libwasmtime.so"):
        wasm.Library(str(broken))


def test_a_package_without_a_library_for_this_machine_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jail_zygote.platform, "machine", lambda: "riscv64")
    with pytest.raises(JailError, match="holds no library for linux-riscv64"):
        jail_zygote.wasmtime_library()
    monkeypatch.setattr(jail_zygote.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(JailError, match="pip install wasmtime"):
        jail_zygote.wasmtime_library()


@pytest.fixture(scope="module")
def engine() -> wasm.Engine:
    return wasm.Engine(wasm.Library(jail_zygote.wasmtime_library()))


def test_the_library_does_what_is_relied_on(engine: wasm.Engine) -> None:
    assert trial.try_library(engine) == "compiles, runs and interrupts"


def test_a_setting_that_the_library_does_not_know_is_an_error(engine: wasm.Engine) -> None:
    with pytest.raises(wasm.WasmError, match="no setting wasm_of_tomorrow"):
        engine.library.set(0, "wasm_of_tomorrow", True)


def moody_agent(engine: wasm.Engine) -> Agent:
    spec = AgentSpec.from_json(
        SPEC | {"output": [k.OUTPUT, 8, 2], "weights_offset": k.WEIGHTS, "memory_limit_bytes": 131_072}
    )
    module = engine.load(engine.compile(k.assemble(k.MOODY)).serialize())
    running = memoryview(bytearray(16)).cast("Q")
    return Agent(module, spec, weights=struct.pack("<f", 2.0), ticks=Ticks(), running=running)


def test_a_freed_kernel_cannot_be_called_or_looked_at(engine: wasm.Engine) -> None:
    agent = moody_agent(engine)
    assert k.values(agent.run(memoryview(k.row(k.ADD, 4)))) == (8.0, 0.0)
    call, view = agent._instance, agent._bytes
    agent.close()
    with pytest.raises(JailError, match="freed store"):
        call.run(1)
    with pytest.raises(ValueError, match="released"):
        view[0]
    with pytest.raises(ValueError, match="released"):
        agent.run(memoryview(k.row(k.ADD)))


def test_a_tick_that_comes_early_is_forgiven_and_one_that_is_due_is_not(engine: wasm.Engine) -> None:
    """The epoch advanced without the agent's knowing: half a deadline decides whose fault the interruption is."""
    agent = moody_agent(engine)
    engine.increment_epoch()
    assert k.values(agent.run(memoryview(k.row(k.ADD, 4)))) == (8.0, 0.0)  # interrupted, made anew, run again
    agent.spec = replace(agent.spec, deadline_ms=0)
    engine.increment_epoch()
    with pytest.raises(CallFaultError) as caught:
        agent.run(memoryview(k.row(k.ADD, 4)))
    assert caught.value.code is FaultCode.DEADLINE


def test_weights_of_another_size_are_refused_by_the_agent(engine: wasm.Engine) -> None:
    agent = moody_agent(engine)
    with pytest.raises(JailError, match="weights of 4 bytes expected, found 8"):
        Agent(agent._module, agent.spec, weights=bytes(8), ticks=Ticks(), running=agent._running)


# --- system calls ---------------------------------------------------------------------------------------------------


def test_maps_are_parsed_as_the_kernel_writes_them() -> None:
    text = Path("/proc/self/maps").read_bytes()
    found = list(enter.mappings(text))
    assert len(found) == len(text.splitlines())
    assert any(item.name == "[stack]" for item in found)
    assert all(item.start < item.end for item in found)


def test_sealed_memory_cannot_be_shrunk_grown_or_rewritten() -> None:
    fd = kernel.memfd("test", size_bytes=4096, content=b"hello")
    try:
        for attempt in (lambda: os.ftruncate(fd, 0), lambda: os.ftruncate(fd, 8192), lambda: os.pwrite(fd, b"x", 0)):
            with pytest.raises(PermissionError):
                attempt()
        assert os.pread(fd, 5, 0) == b"hello"
    finally:
        os.close(fd)


def test_a_program_that_is_no_bpf_is_refused() -> None:
    for program in (b"", b"1234567", bytes(8 * 5000)):
        with pytest.raises(ValueError, match="1 to 4096 instructions"):
            kernel.seccomp_load(program)


def test_an_unknown_architecture_is_a_tier_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel.platform, "machine", lambda: "z80")
    with pytest.raises(TierError, match="z80"):
        kernel.arch()
