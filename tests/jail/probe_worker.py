"""A worker for tests: becomes a jail exactly as the real one, then tries one forbidden thing and says what came of it.

The zygote loads it by `--worker`, which only tests pass.  Which probe to try is the first agent's name; the answer goes
out as the fault of slot 0, in the one message that a jail sends: "open: ..." when the thing worked, "closed: ..." when
it was refused.  When seccomp kills the jail there is no message; its exit says SIGSYS.  The name ":no-test" at the end
of a probe's leaves out the self-test, for jails that lack a layer on purpose.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from edgeswarm.jail import enter, plan, wasm, worker

FDS = worker.FDS
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.mmap.restype = ctypes.c_void_p
X86 = platform.machine() == "x86_64"
SPARE = ctypes.create_string_buffer(4096)
CONTEXT: dict[str, Any] = {}

Probe = Callable[[], object]
PROBES: dict[str, Probe] = {}


def probe(function: Probe) -> Probe:
    PROBES[function.__name__] = function
    return function


def check(result: int | None) -> int:
    if result is None or result == -1 or result == ctypes.c_void_p(-1).value:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def call(x86: int, arm: int, *arguments: Any) -> int:
    """A raw system call by its two numbers; -1: there is none on this architecture."""
    number = x86 if X86 else arm
    if number < 0:
        raise OSError(errno.ENOSYS, "not on this architecture")
    words = [ctypes.c_ulong(a & 0xFFFF_FFFF_FFFF_FFFF) if isinstance(a, int) else a for a in arguments]
    return check(libc.syscall(ctypes.c_long(number), *words))


def simple(name: str, x86: int, arm: int, *arguments: Any) -> None:
    PROBES[name] = lambda: call(x86, arm, *arguments)


AT_FDCWD = -100
VICTIM = 1  # process 1 of the jail's namespace is the jail itself; of the host, init

# --- files
simple("open_passwd", 257, 56, AT_FDCWD, b"/etc/passwd", 0, 0)
simple("open_root_folder", 257, 56, AT_FDCWD, b"/", 0o200000, 0)
simple("open_proc_self_maps", 257, 56, AT_FDCWD, b"/proc/self/maps", 0, 0)
simple("open_proc_1_status", 257, 56, AT_FDCWD, b"/proc/1/status", 0, 0)
simple("open_dev_urandom", 257, 56, AT_FDCWD, b"/dev/urandom", 0, 0)
simple("openat2_passwd", 437, 437, AT_FDCWD, b"/etc/passwd", struct.pack("QQQ", 0, 0, 0), 24)
simple("create_file", 257, 56, AT_FDCWD, b"/tmp/edgeswarm_escape_probe", 0o102, 0o600)
simple("make_device", 259, 33, AT_FDCWD, b"/tmp/edgeswarm_escape_node", 0o020600, 0x0103)
simple("make_folder", 258, 34, AT_FDCWD, b"/tmp/edgeswarm_escape_folder", 0o700)
simple("stat_shadow", 262, 79, AT_FDCWD, b"/etc/shadow", SPARE, 0)
simple("read_link", 267, 78, AT_FDCWD, b"/proc/self/exe", SPARE, 4096)
simple("change_root", 161, 51, b"/")
simple("inotify", 294, 26, 0)
simple("mount_tmpfs", 165, 40, b"none", b"/", b"tmpfs", 0, None)
simple("remount_root_writable", 165, 40, b"none", b"/", None, 32 | 4096, None)
simple("unmount_root", 166, 39, b"/", 2)
simple("fsopen", 430, 430, b"tmpfs", 0)
simple("open_tree", 428, 428, AT_FDCWD, b"/", 1)

# --- network
simple("socket_inet", 41, 198, 2, 1, 0)
simple("socket_inet6_datagram", 41, 198, 10, 2, 0)
simple("socket_unix", 41, 198, 1, 1, 0)
simple("socket_netlink", 41, 198, 16, 3, 0)
simple("socket_packet", 41, 198, 17, 3, 0x300)
simple("socket_vsock", 41, 198, 40, 1, 0)
simple("socket_alg", 41, 198, 38, 5, 0)
simple("socketpair", 53, 199, 1, 1, 0, SPARE)

# --- processes
simple("fork", 57, -1)
simple("vfork_by_clone", 56, 220, 17, 0, 0, 0, 0)
simple("clone3", 435, 435, struct.pack("8Q", 0, 0, 0, 0, 17, 0, 0, 0), 64)
simple("execute", 59, 221, b"/bin/true", (ctypes.c_char_p * 2)(b"true", None), None)
simple("execute_at", 322, 281, AT_FDCWD, b"/bin/true", (ctypes.c_char_p * 2)(b"true", None), None, 0)
simple("trace_me", 101, 117, 0, 0, 0, 0)
simple("kill_own_group", 62, 129, 0, 0)
simple("kill_everything", 62, 129, -1, 0)
simple("setuid_root", 105, 146, 0)
simple("set_hostname", 170, 161, b"owned", 5)
simple("raise_descriptor_limit", 302, 261, 0, 7, struct.pack("QQ", 4096, 4096), None)
simple("raise_priority", 141, 140, 0, 0, -20)
simple("set_realtime", 144, 119, 0, 1, struct.pack("i", 50))
simple("personality_exec", 135, 92, 0x0400000)
simple("unshare_user", 272, 97, 0x1000_0000)
simple("unshare_net", 272, 97, 0x4000_0000)

# --- the kernel's attack surface
simple("bpf_map", 321, 280, 0, struct.pack("IIIII", 2, 4, 4, 1, 0) + bytes(100), 120)
simple("io_uring", 425, 425, 8, ctypes.create_string_buffer(120))
simple("userfaultfd", 323, 282, 1)
simple("keyring", 250, 219, 0, -3, 1, 0, 0)
simple("add_key", 248, 217, b"user", b"edgeswarm_probe", b"x", 1, -2)
simple("perf_event", 298, 241, struct.pack("IIQQQQQ", 1, 112, 0, 0, 0, 0, 0x60) + bytes(72), 0, -1, -1, 0)
simple("kernel_log", 103, 116, 3, SPARE, 4096)
simple("load_module", 175, 105, SPARE, 16, b"")
simple("kexec", 246, 104, 0, 0, None, 0)
simple("set_clock", 227, 112, 0, struct.pack("qq", 0, 0))
simple("shared_memory_sysv", 29, 194, 0x1234, 4096, 0o1600)
simple("message_queue_sysv", 68, 186, 0x77, 0o1600)
simple("message_queue_posix", 240, 180, b"edgeswarm", 0o102, 0o600, None)
simple("modify_ldt", 154, -1, 0, SPARE, 16)
simple("memfd", 319, 279, b"x", 0)
simple("timer", 222, 107, 0, None, SPARE)
simple("x32_getpid", 0x4000_0000 | 39, -1)
simple("landlock_more", 444, 444, struct.pack("Q", 1), 8, 0)
simple("seccomp_more", 317, 277, 2, 0, ctypes.create_string_buffer(4))
simple("terminal_ioctl", 16, 29, 0, 0x5412, b"x")
simple("duplicate_descriptor", 32, 23, 0)


@probe
def ptrace_parent() -> object:
    return call(101, 117, 0x4206, os.getppid() or VICTIM, 0, 0)


@probe
def read_memory_of_others() -> object:
    local, remote = struct.pack("QQ", ctypes.addressof(SPARE), 16), struct.pack("QQ", 0x400000, 16)
    return call(310, 270, CONTEXT["sibling"], local, 1, remote, 1, 0)


@probe
def kill_sibling() -> object:
    return call(62, 129, CONTEXT["sibling"], 0)


@probe
def pidfd_of_sibling() -> object:
    return call(434, 434, CONTEXT["sibling"], 0)


@probe
def connect_abstract_socket() -> object:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        return s.connect("\0edgeswarm-probe") or 1


@probe
def connect_host() -> object:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        return s.connect(("127.0.0.1", CONTEXT["port"])) or 1


@probe
def thread() -> object:
    import _thread

    try:
        return _thread.start_new_thread(time.time, ())
    except RuntimeError:
        raise OSError(errno.EAGAIN, "no thread") from None


# --- code
@probe
def map_executable() -> object:
    return check(libc.mmap(None, 4096, 5, 0x22, -1, 0))


@probe
def map_writable_and_executable() -> object:
    return check(libc.mmap(None, 4096, 7, 0x22, -1, 0))


@probe
def make_data_executable() -> object:
    address = check(libc.mmap(None, 4096, 3, 0x22, -1, 0))
    return check(libc.mprotect(ctypes.c_void_p(address), 4096, 5)) or 1


@probe
def make_stack_executable() -> object:
    page = ctypes.addressof(SPARE) & ~4095
    return check(libc.mprotect(ctypes.c_void_p(page), 4096, 7)) or 1


@probe
def make_code_writable() -> object:
    page = ctypes.cast(libc.getpid, ctypes.c_void_p).value or 0
    return check(libc.mprotect(ctypes.c_void_p(page & ~4095), 4096, 3)) or 1


@probe
def unmap_code() -> object:
    page = ctypes.cast(libc.getpid, ctypes.c_void_p).value or 0
    return check(libc.munmap(ctypes.c_void_p(page & ~4095), 4096)) or 1


@probe
def write_to_code() -> object:
    page = ctypes.cast(libc.getpid, ctypes.c_void_p).value or 0
    ctypes.memmove(page, b"\x90", 1)
    return 1


@probe
def pkey_protect() -> object:
    address = check(libc.mmap(None, 4096, 3, 0x22, -1, 0))
    return call(329, 288, address, 4096, 5, -1)


# --- resources
@probe
def memory_bomb() -> object:
    for _ in range(64):
        address = check(libc.mmap(None, 32 << 20, 3, 0x22, -1, 0))
        ctypes.memset(address, 1, 32 << 20)
    return 1


@probe
def leaked_descriptors() -> object:
    """Descriptors beyond the protocol's that answer to read(fd, 0 bytes) or write(fd, 0 bytes)."""
    known = {0, 1, 2, *CONTEXT["keep"]}
    found = []
    for fd in range(1024):
        if libc.read(fd, None, 0) != -1 or ctypes.get_errno() != errno.EBADF:
            found.append(fd)
    extra = sorted(set(found) - known)
    if not extra:
        raise OSError(errno.EBADF, f"only {sorted(known)}")
    return extra


@probe
def unseal_the_rings() -> object:
    return call(72, 25, CONTEXT["keep"][0], 1033, 0)


@probe
def bad_control_message() -> object:
    os.write(CONTEXT["keep"][0], b'{"ready": 7}')
    time.sleep(10)
    return 1


@probe
def second_control_message() -> object:
    worker.tell(CONTEXT["keep"][0], {"ready": CONTEXT["ready"], "faults": {}})
    os.write(CONTEXT["keep"][0], b'{"ready": 7}')
    time.sleep(10)
    return 1


class ProbeJail(worker.Jail):
    """A real jail that probes before it says ready."""

    def __init__(self, order: dict[str, Any], fds: Sequence[int], engine: wasm.Engine) -> None:
        super().__init__(order, fds, engine)
        name, *options = order["agents"][0]["name"].split(":")
        self.options = options
        self.chosen = name
        self.tests = "no-test" not in options
        CONTEXT.update(keep=(self.control, self.wake, self.answer, self.epoch), sibling=os.getppid(), port=0)
        for option in options:
            key, _, value = option.partition("=")
            if value:
                CONTEXT[key] = int(value)

    def test_self(self, entered: enter.Entered) -> None:
        if self.tests:
            super().test_self(entered)

    def serve(self, ready: dict[str, Any]) -> NoReturn:
        CONTEXT["ready"] = ready
        if self.chosen == "lie":
            self.lie(ready)
        try:
            text = f"open: {PROBES[self.chosen]()}"
        except OSError as error:
            text = f"closed: {errno.errorcode.get(error.errno or 0, error.errno)} {error.strerror}"
        except MemoryError:
            text = "closed: MemoryError"
        if self.chosen in ("fork", "vfork_by_clone", "clone3") and text == "open: 0":
            os._exit(0)  # the child of a fork that worked
        self.faults = {0: text}
        super().serve(ready)

    def lie(self, ready: dict[str, Any]) -> NoReturn:
        """Say ready, and answer the first frame with the bytes that the name gives: into the ring, into the pipe."""
        worker.tell(self.control, {"ready": ready, "faults": {}})
        os.read(self.wake, 8)
        frame, head = (bytes.fromhex(option) for option in self.options)
        self.shared.from_jail[: len(frame)] = frame
        os.write(self.answer, head)
        while True:
            os.read(self.wake, 8)


def start(
    job: dict[str, Any],
    fds: Sequence[int],
    engine: wasm.Engine,
    steps: Sequence[plan.Step],
    forked: Callable[[int], NoReturn],
) -> NoReturn:
    if job["kind"] != "serve":
        worker.start(job, fds, engine, steps, forked)
    ProbeJail(job, fds, engine).become(steps, forked=forked)
