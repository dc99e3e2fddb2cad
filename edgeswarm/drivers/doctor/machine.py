"""Cgroups, wasmtime and accelerators, each tried for real in a forked child of the probe.

A cgroup is made, given a limit and a process, and removed again; wasmtime compiles, runs, traps and is interrupted;
an accelerator's library is loaded and asked for its devices.  A refusal is an OSError or a ProbeError.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import os
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeswarm.drivers.jail_zygote import wasmtime_folder
from edgeswarm.jail import engine

CGROUPS = Path("/sys/fs/cgroup")
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
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        for base in (CGROUPS, CGROUPS / "unified") if not controllers else (CGROUPS / controllers,):
            folder = base / path.lstrip("/")
            wanted = "cgroup.controllers" if not controllers else "cgroup.procs"
            if (folder / wanted).exists():
                for controller in controllers.split(","):
                    found.setdefault(controller, folder)
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

_MODULE = """(module (memory (export "memory") 1)
  (func (export "simd") (result i32)
    (i32x4.extract_lane 2 (i32x4.add (v128.const i32x4 1 2 3 4) (v128.const i32x4 10 20 30 40))))
  (func (export "trap") unreachable)
  (func (export "loop") (loop $again (br $again))))"""


def wasmtime() -> str:
    """With the settings of a jail: compile, run SIMD, trap, interrupt an endless loop; no thread may have come."""
    wasmtime_folder()  # says so when the wheel holds no library for this machine
    import wasmtime as package

    try:
        made = engine.make_engine()
        store = package.Store(made)
        store.set_epoch_deadline(1)
        instance: Any = package.Instance(store, package.Module(made, _MODULE), [])
        exports = instance.exports(store)
    except (package.WasmtimeError, OSError, AttributeError) as error:
        raise ProbeError(f"wasmtime does not compile here: {error}") from None
    if exports["simd"](store) != 33:
        raise ProbeError("wasmtime computed a wrong SIMD sum")
    for name in ("trap", "loop"):
        if name == "loop":
            made.increment_epoch()
        try:
            exports[name](store)
        except package.Trap:
            continue
        raise ProbeError(f"wasmtime: {name} did not trap")
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise ProbeError(f"wasmtime started {threads - 1} threads: it could not be forked")
    version = importlib.metadata.version("wasmtime")
    return f"{version}: compiled, SIMD, trap and deadline work, no threads"


# --- delegates --------------------------------------------------------------------------------------------------------


def package_delegate(distribution: str, module: str) -> Callable[[], str]:
    """Import the interpreter.  No model is run: that needs one."""

    def attempt() -> str:
        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            raise ProbeError(f"{distribution} is not installed") from None
        interpreter = getattr(importlib.import_module(module), "Interpreter", None)
        if interpreter is None:
            raise ProbeError(f"{distribution} {version}: no Interpreter in {module}")
        return f"{distribution} {version} imports (no model was run)"

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
