"""Compiled code is machine code: made within limits in a jail, taken for this machine only, loaded in jails only."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import jail_kernels as k
import pytest

from edgeswarm.drivers import jail_cache
from edgeswarm.drivers.jail_cache import CwasmCache, binding_here
from edgeswarm.drivers.jails import JailHost
from edgeswarm.errors import JailError, KernelError, LimitError

PACKAGE = k.ROOT / "edgeswarm"
ENGINE = re.compile(r"\bwasm\.(Library|Engine|Instance)\(|\bload_library\b|CDLL\([^)]*wasmtime")
TRIED_BY_DOCTOR = "drivers/doctor/machine.py"
"""Compiles and loads a constant module of ours, in a process of its own that ends then."""


def many_functions(count: int) -> bytes:
    """A module that keeps the ABI, and takes long to compile."""
    body = " ".join(f"(f32.store (i32.const {4 * n}) (f32.sqrt (f32.load (i32.const {8 * n}))))" for n in range(60))
    functions = "\n".join(f"(func $f{n} {body})" for n in range(count))
    return k.assemble(
        f"""(module (memory (export "memory") 2)
        {functions} (func (export "run") (call $f0)) (func (export "run_batch") (param i32)))"""
    )


@pytest.mark.e2e
async def test_module_that_takes_too_long_to_compile_is_refused_by_the_limits_name(host: JailHost) -> None:
    with pytest.raises(LimitError, match="compiling a kernel took longer than 250 ms"):
        await host.compile(many_functions(3000), deadline_s=0.25)
    assert host.jails == ()
    assert (await host.compile(k.assemble(k.MOODY)))[:4] == b"\x7fELF"


@pytest.mark.e2e
async def test_module_whose_compilation_wants_too_much_memory_is_refused_and_costs_one_jail(
    cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The build policy's memory is cut to what a jail needs by itself, so that a small module passes it."""
    from dataclasses import replace

    from edgeswarm.drivers import jails

    load = jails.load_policies

    def load_small(*arguments: Any, **more: Any) -> Any:
        found = load(*arguments, **more)
        return found | {"build": replace(found["build"], data_bytes=24 << 20)}

    monkeypatch.setattr(jails, "load_policies", load_small)
    host = JailHost(policy_dir=k.SANDBOX, cache_dir=tmp_path, mac_key=k.MAC_KEY)
    await host.start()
    try:
        with pytest.raises((JailError, KernelError)) as caught:
            await host.compile(many_functions(3000), deadline_s=20)
        assert "memory" in str(caught.value)
        assert host.zygote_starts == 1
        assert (await host.compile(k.assemble(k.MOODY)))[:4] == b"\x7fELF"
    finally:
        await host.close()


@pytest.mark.e2e
@pytest.mark.parametrize("change", ["processor", "wasmtime"])
async def test_cache_moved_to_another_machine_is_compiled_again(
    host: JailHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    policy = host._policies["build"].digest()
    wasm = k.assemble(k.MOODY)
    host.cache = CwasmCache(tmp_path, k.MAC_KEY, binding_here(policy_digest=policy))
    await host.compile(wasm)
    first = host._next
    await host.compile(wasm)
    assert host._next == first  # from the cache: no jail was needed
    if change == "processor":
        monkeypatch.setattr(jail_cache, "_processor_flags", lambda: b"flags\t\t: fpu sse2")
    else:
        monkeypatch.setattr(jail_cache.importlib.metadata, "version", lambda _name: "1.0.0")
    host.cache = CwasmCache(tmp_path, k.MAC_KEY, binding_here(policy_digest=policy))
    await host.compile(wasm)
    assert host._next == first + 1
    assert len(list(tmp_path.iterdir())) == 2


def test_processor_binding_holds_every_feature_the_kernel_reports() -> None:
    flags = jail_cache._processor_flags()
    listed = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    words = {
        word for line in listed.splitlines() if line.startswith(("flags", "Features")) for word in line.split()[2:]
    }
    assert words
    assert words <= set(flags.decode("ascii").split())


def test_nothing_but_the_jails_own_code_can_deserialise() -> None:
    """By name: only `jail/wasm.py` knows the function, and nothing outside of the jail's program makes an engine."""
    users, makers = set(), set()
    for path in PACKAGE.rglob("*.py"):
        text, name = path.read_text(encoding="utf-8"), path.relative_to(PACKAGE).as_posix()
        users |= {name} if "deserialize" in text else set()
        makers |= {name} if ENGINE.search(text) else set()
    assert users == {"jail/wasm.py"}
    assert {name for name in makers if not name.startswith("jail/")} <= {TRIED_BY_DOCTOR}


@pytest.mark.e2e
async def test_jails_load_code_after_seccomp_and_the_zygote_maps_none(host: JailHost, spawn: Any, moody: bytes) -> None:
    """Stage 1 stands before Load in what a jail says it performed; no kernel's code is ever in the zygote."""
    served = await spawn(k.moody_spec(moody))
    performed = served.jail.ready["performed"]
    assert performed.index("LoadFilter(1)") < performed.index("Load") < performed.index("LoadFilter(2)")
    for name in ("DropCapabilities", "NoNewPrivileges", "CloseDescriptors", "Limit(DATA)"):
        assert performed.index(name) < performed.index("Load")
    await asyncio.sleep(0)
    executable = [
        line.split()
        for line in Path(f"/proc/{host.zygote_pid}/maps").read_text().splitlines()
        if "x" in line.split()[1]
    ]
    assert all(len(line) > 5 for line in executable if line[4] != "0")  # of files; the anonymous one is libffi's
    assert sum(len(line) <= 5 for line in executable) <= 1
