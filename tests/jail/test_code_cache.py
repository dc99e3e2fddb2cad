"""Compiled code on disk: taken only when this device wrote it, for exactly this; never loaded outside a jail."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import jail_kernels as k
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.drivers import jail_cache
from edgeswarm.drivers.jail_cache import Binding, CwasmCache, binding_here
from edgeswarm.drivers.jails import JailHost
from edgeswarm.errors import LocalError

BINDING = Binding(wasmtime="50", arch="x86_64", processor="p", settings="s", policy="q")
WASM, CODE = b"\0asm...", bytes(range(256)) * 40


def test_code_comes_back_and_only_for_its_own_wasm(tmp_path: Path) -> None:
    cache = CwasmCache(tmp_path / "new" / "folder", k.MAC_KEY, BINDING)
    assert cache.get(WASM) is None
    assert cache.put(WASM, CODE)
    assert cache.get(WASM) == CODE
    assert cache.get(WASM + b"x") is None
    assert cache.rejected == 0
    (path,) = (tmp_path / "new" / "folder").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("field", ["wasmtime", "arch", "processor", "settings", "policy"])
def test_code_of_another_machine_wasmtime_or_policy_is_absent(tmp_path: Path, field: str) -> None:
    CwasmCache(tmp_path, k.MAC_KEY, BINDING).put(WASM, CODE)
    assert CwasmCache(tmp_path, k.MAC_KEY, replace(BINDING, **{field: "other"})).get(WASM) is None


def test_code_under_another_devices_key_is_rejected_and_deleted(tmp_path: Path) -> None:
    CwasmCache(tmp_path, b"another key, of another device..", BINDING).put(WASM, CODE)
    cache = CwasmCache(tmp_path, k.MAC_KEY, BINDING)
    assert cache.get(WASM) is None
    assert cache.rejected == 1
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, 1 << 20), bit=st.integers(0, 7), cut=st.booleans())
def test_no_damaged_file_is_ever_taken(
    tmp_path_factory: pytest.TempPathFactory, position: int, bit: int, cut: bool
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    cache = CwasmCache(folder, k.MAC_KEY, BINDING)
    cache.put(WASM, CODE[:500])
    (path,) = folder.iterdir()
    content = bytearray(path.read_bytes())
    position %= len(content)
    if cut:
        del content[position:]
    else:
        content[position] ^= 1 << bit
    path.write_bytes(content)
    assert cache.get(WASM) is None
    assert cache.rejected == 1


def test_code_moved_under_another_name_is_rejected(tmp_path: Path) -> None:
    cache = CwasmCache(tmp_path, k.MAC_KEY, BINDING)
    cache.put(WASM, CODE)
    (path,) = tmp_path.iterdir()
    cache.put(b"other", CODE)
    (other,) = set(tmp_path.iterdir()) - {path}
    os.replace(path, other)
    assert cache.get(b"other") is None


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    cache = CwasmCache(tmp_path, k.MAC_KEY, BINDING)
    cache.put(WASM, CODE)
    (path,) = tmp_path.iterdir()
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert cache.get(WASM) is None


def test_a_folder_that_cannot_be_written_costs_a_compilation_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert not CwasmCache(tmp_path / "file" / "folder", k.MAC_KEY, BINDING).put(WASM, CODE)


def test_the_longest_unused_code_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jail_cache, "CWASM_CACHE_BYTES_MAX", 3 * len(CODE))
    cache = CwasmCache(tmp_path, k.MAC_KEY, BINDING)
    for number in range(4):
        cache.put(b"%d" % number, CODE)
        for path in tmp_path.iterdir():
            os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns - 10**9))
        cache.get(b"0")
    assert [number for number in range(4) if cache.get(b"%d" % number)] == [0, 3]


# --- disks, and other processes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["utime", "unlink"])
@pytest.mark.parametrize("problem", [FileNotFoundError, PermissionError, OSError])
def test_what_the_disk_refuses_is_no_error_of_a_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, problem: type[OSError]
) -> None:
    """A disk that takes no writes any more; or another supervisor of this folder deleted the file just now."""

    def refuse(*_: object, **__: object) -> None:
        raise problem

    cache = CwasmCache(tmp_path, k.MAC_KEY, BINDING)
    cache.put(WASM, CODE)
    (path,) = tmp_path.iterdir()
    if call == "unlink":
        path.write_bytes(b"damaged")
        monkeypatch.setattr(Path, "unlink", refuse)
        assert cache.get(WASM) is None
        assert cache.rejected == 1
    else:
        monkeypatch.setattr(os, "utime", refuse)
        assert cache.get(WASM) == CODE


@pytest.mark.parametrize("kind", ["folder", "fifo", "unreadable"])
def test_what_is_no_file_of_ours_is_absent_and_never_waited_for(tmp_path: Path, kind: str) -> None:
    cache = CwasmCache(tmp_path, k.MAC_KEY, BINDING)
    cache.put(WASM, CODE)
    (path,) = tmp_path.iterdir()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/proc/self/mem")
    assert cache.get(WASM) is None
    assert cache.put(WASM, CODE) == (kind != "folder")


def test_a_full_disk_keeps_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_from: object, _to: object) -> None:
        raise OSError(28, "No space left on device")

    cache = CwasmCache(tmp_path, k.MAC_KEY, BINDING)
    monkeypatch.setattr(os, "replace", full)
    assert not cache.put(WASM, CODE)
    assert list(tmp_path.iterdir()) == []


def test_drafts_of_processes_that_died_are_deleted_and_others_left(tmp_path: Path) -> None:
    cache = CwasmCache(tmp_path, k.MAC_KEY, BINDING)
    old, young, foreign = tmp_path / "a.1.tmp", tmp_path / "b.2.tmp", tmp_path / "notes.txt"
    for path in (old, young, foreign):
        path.write_bytes(CODE)
        os.utime(path, (0, 0))
    os.utime(young)
    assert cache.put(WASM, CODE)
    assert not old.exists()
    assert young.exists() and foreign.exists()
    assert cache.get(WASM) == CODE


def test_two_processes_prune_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the other one has deleted between listing and looking is not missed, and the new code is kept."""
    monkeypatch.setattr(jail_cache, "CWASM_CACHE_BYTES_MAX", len(CODE))
    cache = CwasmCache(tmp_path, k.MAC_KEY, BINDING)
    cache.put(b"1", CODE)
    stat = Path.stat

    def gone(self: Path, **more: Any) -> os.stat_result:
        if self.suffix == ".cwasm" and cache._path(cache.binding.header(b"2")) != self:
            self.unlink(missing_ok=True)
        return stat(self, **more)

    monkeypatch.setattr(Path, "stat", gone)
    assert cache.put(b"2", CODE)
    assert cache.get(b"2") == CODE


def test_a_key_of_the_wrong_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="16 to 64 bytes"):
        CwasmCache(tmp_path, b"short", BINDING)


def test_the_binding_of_this_machine_names_its_wasmtime() -> None:
    found = binding_here(policy_digest="x")
    assert found.wasmtime.split(".")[0].isdigit()
    assert found == binding_here(policy_digest="x")


@pytest.mark.e2e
async def test_damaged_code_is_compiled_again_in_a_jail(host: JailHost, spawn: Any, tmp_path: Path) -> None:
    wasm = k.assemble(k.MOODY)
    cache = CwasmCache(tmp_path, k.MAC_KEY, binding_here(policy_digest=host._policies["build"].digest()))
    host.cache = cache
    code = await host.compile(wasm)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    assert await host.compile(wasm) == code
    assert cache.rejected == 1
    assert path.read_bytes() != content
    served = await spawn(k.moody_spec(code))
    assert k.values((await served.ask(0, 1, k.row(k.ADD, 3))).payload)[0] == 6.0


@pytest.mark.e2e
async def test_one_module_is_compiled_once_however_many_ask(host: JailHost, tmp_path: Path) -> None:
    import asyncio

    host.cache = CwasmCache(tmp_path, k.MAC_KEY, binding_here(policy_digest=host._policies["build"].digest()))
    before = host._next
    codes = await asyncio.gather(*(host.compile(k.assemble(k.MOODY)) for _ in range(5)))
    assert len(set(codes)) == 1
    assert host._next - before == 1
