"""Probes of files: reading, making, mounting, and what /proc and /sys would tell of others (side channels)."""

from __future__ import annotations

import ctypes
import os
import struct
from contextlib import suppress
from errno import EEXIST, EINVAL, ENODEV, EOVERFLOW
from typing import Final

from edgeswarm.jail.probes import AT_FDCWD, SPARE, Group, Place, call, probe, sibling

_files: Final = Group("files", "landlock")
_mounts: Final = Group("files", "capabilities")
_tells: Final = Group("side channels", "landlock")
_READ, _DIRECTORY, _PATH = 0, 0o200000 if os.uname().machine == "x86_64" else 0o40000, 0o10000000
_TEMPORARY: Final = 0o20000000 | _DIRECTORY | 0o2  # O_TMPFILE for reading and writing: never has a name


def _open(name: str, path: bytes, flags: int = _READ) -> None:
    _files(name, 257, 56, AT_FDCWD, path, flags, 0o600, undo=os.close)


_open("open_passwd", b"/etc/passwd")
_open("open_root_folder", b"/", _DIRECTORY)
_open("open_parent_folder", b"..", _DIRECTORY)
_open("open_dev_urandom", b"/dev/urandom")
_open("open_dev_null_for_writing", b"/dev/null", 1)
_open("open_tty", b"/dev/tty")
_open("create_unnamed_file", b"/tmp", _TEMPORARY)
_open("create_file_in_shared_memory", b"/dev/shm", _TEMPORARY)
_files("open_old_way", 2, -1, b"/etc/passwd", 0, 0, undo=os.close)
_files("openat2_passwd", 437, 437, AT_FDCWD, b"/etc/passwd", struct.pack("QQQ", 0, 0, 0), 24, undo=os.close)
_files("make_device", 259, 33, AT_FDCWD, b"/dev/null", 0o020600, 0x0103, layer="capabilities", reached=(EEXIST,))
_files("stat_passwd", 262, 79, AT_FDCWD, b"/etc/passwd", SPARE, 0, layer="namespaces")
_files("statx_passwd", 332, 291, AT_FDCWD, b"/etc/passwd", 0, 0x7FF, SPARE, layer="namespaces")
_files("stat_own_descriptor", 5, 80, 0, SPARE, layer="seccomp")
_files("access_passwd", 269, 48, AT_FDCWD, b"/etc/passwd", 4, layer="namespaces")
_files("read_link", 267, 78, AT_FDCWD, b"/proc/self/exe", SPARE, 4096, layer="namespaces")
_files("size_of_file_system", 137, 43, b"/", SPARE, layer="seccomp")
_files("change_folder", 80, 49, b"/etc", layer="namespaces")
_files("where_am_i", 79, 17, SPARE, 4096, layer="seccomp")
_files("file_handle", 303, 264, AT_FDCWD, b"/etc", struct.pack("Ii", 0, 0), SPARE, 0, layer="namespaces",
       reached=(EOVERFLOW,))  # fmt: skip
_files("inotify", 294, 26, 0, layer="seccomp", undo=os.close)
_files("fanotify", 300, 262, 0x200, 0, layer="seccomp", undo=os.close)

_mounts("change_root", 161, 51, b"/")
_mounts("mount_tmpfs", 165, 40, b"none", b"/", b"tmpfs", 0, None)
_mounts("remount_root_writable", 165, 40, b"none", b"/", None, 32 | 4096, None)
_mounts("unmount_root", 166, 39, b"/", 2)
_mounts("pivot_root", 155, 41, b"/", b"/", reached=(EINVAL,))
_mounts("fsopen", 430, 430, b"tmpfs", 0, undo=os.close)
_mounts("open_tree", 428, 428, AT_FDCWD, b"/", 1, undo=os.close)
_mounts("change_mounts", 442, 442, AT_FDCWD, b"/", 0, struct.pack("4Q", 0, 0, 0, 0), 32)
_mounts("swap_on", 167, 224, b"/dev/null", 0, careful=True)
_mounts("accounting", 163, 89, None, careful=True)
_files("list_mounts", 458, 458, struct.pack("IIQQ", 24, 0, 0xFFFF_FFFF_FFFF_FFFF, 0), SPARE, 8, 0, layer="seccomp")


@probe("files", "landlock", EEXIST)
def make_folder(_place: Place) -> object:
    made = call(258, 34, AT_FDCWD, b"/tmp/edgeswarm_probe_folder", 0o700)
    with suppress(OSError):
        os.rmdir("/tmp/edgeswarm_probe_folder")
    return made


@probe("files", "landlock", EEXIST)
def make_symbolic_link(_place: Place) -> object:
    made = call(266, 36, b"/etc", AT_FDCWD, b"/tmp/edgeswarm_probe_link")
    with suppress(OSError):
        os.unlink("/tmp/edgeswarm_probe_link")
    return made


@probe("files", "landlock", EEXIST)
def make_named_pipe(_place: Place) -> object:
    made = call(259, 33, AT_FDCWD, b"/tmp/edgeswarm_probe_pipe", 0o010600, 0)
    with suppress(OSError):
        os.unlink("/tmp/edgeswarm_probe_pipe")
    return made


# --- what the files of /proc, /sys and /dev tell of the machine and of others ----------------------------------------

for _name, _path in (
    ("own_mappings", b"/proc/self/maps"),
    ("own_memory", b"/proc/self/mem"),
    ("own_page_map", b"/proc/self/pagemap"),
    ("status_of_process_1", b"/proc/1/status"),
    ("list_of_processes", b"/proc"),
    ("processor_time", b"/proc/stat"),
    ("interrupts", b"/proc/interrupts"),
    ("schedule", b"/proc/schedstat"),
    ("load", b"/proc/loadavg"),
    ("memory_in_use", b"/proc/meminfo"),
    ("connections", b"/proc/net/tcp"),
    ("kernel_symbols", b"/proc/kallsyms"),
    ("kernel_options", b"/proc/cmdline"),
    ("command_of_process_1", b"/proc/1/cmdline"),
    ("processor_frequency", b"/sys/devices/system/cpu/online"),
    ("energy", b"/sys/class/powercap"),
    ("temperature", b"/sys/class/thermal"),
    ("network_interfaces", b"/sys/class/net"),
    ("machine_id", b"/etc/machine-id"),
):
    _tells(f"tell_{_name}", 257, 56, AT_FDCWD, _path, 0, 0, undo=os.close, reached=(ENODEV,))


for _name in ("stat", "maps", "mem", "environ", "syscall"):

    def _attempt(place: Place, name: str = _name) -> object:
        fd = call(257, 56, AT_FDCWD, f"/proc/{sibling(place)}/{name}".encode("ascii"), 0, 0)
        os.close(fd)
        return fd

    _attempt.__name__ = f"tell_{_name}_of_sibling"
    probe("side channels", "namespaces")(_attempt)

_tells("processes_time", 100, 153, SPARE, layer="seccomp")
_tells("resources_in_use", 98, 165, 0, SPARE, layer="seccomp")
_tells("machine_and_kernel", 63, 160, ctypes.create_string_buffer(512), layer="seccomp")
_tells("uptime_and_load", 99, 179, SPARE, layer="seccomp")
_tells("which_processor", 309, 168, SPARE, None, None, layer="seccomp")
_tells("pages_in_core", 27, 232, lambda _: ctypes.addressof(SPARE) & ~4095, 4096, ctypes.create_string_buffer(64),
       layer="seccomp")  # fmt: skip
