"""Cgroups, wasmtime and accelerators, each tried for real in a forked child of the probe.

A cgroup is made, given a limit and a process, and removed again; wasmtime compiles, runs and is interrupted;
an accelerator's library is loaded and asked for its devices.  A refusal is an OSError or a ProbeError.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeswarm.drivers.cgroup_find import read_own_groups
from edgeswarm.drivers.delegates import runtimes
from edgeswarm.drivers.delegates.trial import run_test_model
from edgeswarm.drivers.jail_zygote import wasmtime_library
from edgeswarm.jail import trial, wasm

_LIMITS_V1 = {
    "memory": ("memory.limit_in_bytes", "67108864"),
    "pids": ("pids.max", "8"),
    "cpu": ("cpu.cfs_quota_us", "50000"),
}
_LIMITS_V2 = {"memory": ("memory.max", "67108864"), "pids": ("pids.max", "8"), "cpu": ("cpu.max", "50000 100000")}


class ProbeError(Exception):
    """It is not there, or does not do what it should."""


# --- cgroups ----------------------------------------------------------------------------------------------------------


def own_groups() -> dict[str, Path]:
    """Controller ("" for version 2) -> the folder of our own group, where it is mounted."""
    found: dict[str, Path] = {}
    for group in read_own_groups():
        for controller in group.controllers or ("",):
            found.setdefault(controller, group.folder)
    return found


def cgroup_v1(controller: str, folder: Path) -> Callable[[], str]:
    def attempt() -> str:
        name, value = _LIMITS_V1[controller]
        _try_group(folder, lambda group: (group / name).write_text(value))
        return f"a group below {folder} took {name}={value} and a process"

    return attempt


def cgroup_v2(folder: Path) -> Callable[[], str]:
    """A group is made beside us; which limits it takes depends on what our own group passes on."""

    def attempt() -> str:
        offered = (folder / "cgroup.controllers").read_text().split()
        passed_on = (folder / "cgroup.subtree_control").read_text().split()
        taken: list[str] = []

        def limit(group: Path) -> None:
            for controller, (name, value) in _LIMITS_V2.items():
                if (group / name).exists():
                    (group / name).write_text(value)
                    taken.append(controller)

        _try_group(folder, limit)
        text = f"a group below {folder} took a process; limits: {' '.join(taken) or 'none'}"
        if not taken:
            raise ProbeError(f"{text} (offered: {' '.join(offered) or 'none'}, on: {' '.join(passed_on) or 'none'})")
        return text

    return attempt


def _try_group(folder: Path, limit: Callable[[Path], object]) -> None:
    group = folder / f"edgeswarm-doctor-{os.getpid()}"
    group.mkdir()
    child = 0
    try:
        limit(group)
        child = os.fork()
        if child == 0:
            signal.pause()
            os._exit(0)
        (group / "cgroup.procs").write_text(str(child))
        if str(child) not in (group / "cgroup.procs").read_text().split():
            raise ProbeError(f"{group}: the process is not in it")
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        _remove_group(group)


def _remove_group(group: Path) -> None:
    for _ in range(50):  # a group is busy until the kernel has buried its last process
        try:
            group.rmdir()
        except OSError:
            time.sleep(0.01)
        else:
            return
    group.rmdir()


# --- wasmtime ---------------------------------------------------------------------------------------------------------

# (memory (export "memory") 1 1)
# (func (export "run") (v128.store (i32.const 0)
#   (f32x4.add (v128.const f32x4 1 2 3 4) (v128.const f32x4 10 20 30 40))))
# (func (export "run_batch") (param i32) (v128.store (i32.const 0)
#   (f32x4.mul (f32x4.splat (f32.convert_i32_s (local.get 0))) (v128.const f32x4 1 2 3 4))))
_SIMD = bytes.fromhex(
    "0061736d0100000001080260000060017f000303020001050401010101071c03066d656d6f727902000372756e00000972756e5f6261746368"
    "00010a54022f004100fd0c0000803f000000400000404000008040fd0c000020410000a0410000f04100002042fde401fd0b04000b22004100"
    "2000b2fd13fd0c0000803f000000400000404000008040fde601fd0b04000b"
)


def wasmtime() -> str:
    """With the settings of a jail: compile, run SIMD, interrupt a call past its deadline; no thread may have come."""
    engine = wasm.Engine(wasm.Library(wasmtime_library()))  # says so when the wheel holds no library for this machine
    trial.try_library(engine)
    instance = wasm.Instance(engine.load(engine.compile(_SIMD).serialize()), memory_bytes_max=65_536)
    trapped = instance.run(1)
    sums = list(instance.floats[:4])
    trapped |= instance.run_batch(3)
    products = list(instance.floats[:4])
    instance.close()
    if trapped or sums != [11.0, 22.0, 33.0, 44.0] or products != [3.0, 6.0, 9.0, 12.0]:
        raise ProbeError(f"wasmtime computes SIMD wrongly: {sums} {products}")
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise ProbeError(f"wasmtime started {threads - 1} threads: it could not be forked")
    return f"{importlib.metadata.version('wasmtime')}: compiles, computes SIMD, interrupts; no threads"


# --- delegates --------------------------------------------------------------------------------------------------------


def delegate(name: runtimes.Name, **wanted: Any) -> Callable[[], str]:
    """Make it run the test model, in a jail.  wanted: as `runtimes.find`."""

    def attempt() -> str:
        for descriptor in (0, 1, 2):  # of a trial they are closed on exec; a zygote wants to have them
            os.set_inheritable(descriptor, True)
        return run_test_model(runtimes.find(name, **wanted))

    return attempt


def gpu_nodes() -> str:
    """Open the device nodes of GPUs."""
    patterns = ("dri/renderD*", "nvidia[0-9]*", "nvhost-gpu", "kgsl-3d0", "mali0")
    nodes = sorted(str(path) for pattern in patterns for path in Path("/dev").glob(pattern))
    if not nodes:
        raise ProbeError("no device node of a GPU in /dev")
    opened, refused = [], []
    for node in nodes:
        try:
            os.close(os.open(node, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            refused.append(f"{node}: {error.strerror}")
        else:
            opened.append(node)
    if not opened:
        raise ProbeError("; ".join(refused))
    return f"opened {' '.join(opened)}" + (f" (not {'; '.join(refused)})" if refused else "")


class _VulkanInstanceInfo(ctypes.Structure):
    """VkInstanceCreateInfo: the least that makes an instance."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("flags", ctypes.c_uint32),
        ("application", ctypes.c_void_p),
        ("layer_count", ctypes.c_uint32),
        ("layers", ctypes.c_void_p),
        ("extension_count", ctypes.c_uint32),
        ("extensions", ctypes.c_void_p),
    )


_VULKAN_DEVICES_MAX = 16
_VULKAN_PROPERTIES_BYTES = 4096  # VkPhysicalDeviceProperties is 824 bytes
_VULKAN_TYPE_CPU = 4


def _library(name: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(name)
    except OSError:
        raise ProbeError(f"{name} is not installed") from None


def vulkan() -> str:
    """Make an instance and name its devices; one that the CPU plays does not count."""
    library = _library("libvulkan.so.1")
    info = _VulkanInstanceInfo(type=1)
    instance, count = ctypes.c_void_p(), ctypes.c_uint32(_VULKAN_DEVICES_MAX)
    code = library.vkCreateInstance(ctypes.byref(info), None, ctypes.byref(instance))
    if code != 0:
        raise ProbeError(f"vkCreateInstance answers {code}: no driver (no ICD file in /usr/share/vulkan/icd.d?)")
    devices = (ctypes.c_void_p * _VULKAN_DEVICES_MAX)()
    code = library.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), devices)
    if code != 0 or count.value == 0:
        raise ProbeError(f"Vulkan finds no device (answer {code})")
    names = []
    for device in devices[: count.value]:
        properties = ctypes.create_string_buffer(_VULKAN_PROPERTIES_BYTES)
        library.vkGetPhysicalDeviceProperties(ctypes.c_void_p(device), properties)
        kind, name = struct.unpack_from("=I256s", properties, 16)  # after four words of versions and ids
        if kind != _VULKAN_TYPE_CPU:
            names.append(name.split(b"\0")[0].decode("utf-8", "replace"))
    library.vkDestroyInstance(instance, None)
    if not names:
        raise ProbeError("Vulkan finds no device but the CPU itself")
    return ", ".join(names)


def cuda() -> str:
    """Initialise the driver and ask for its devices."""
    library = _library("libcuda.so.1")
    code = library.cuInit(0)
    count = ctypes.c_int()
    if code == 0:
        code = library.cuDeviceGetCount(ctypes.byref(count))
    if code != 0 or count.value == 0:
        raise ProbeError(f"CUDA finds no device (answer {code})")
    name = ctypes.create_string_buffer(128)
    library.cuDeviceGetName(name, len(name), 0)
    return f"{count.value} CUDA device(s), the first: {name.value.decode('utf-8', 'replace')}"
