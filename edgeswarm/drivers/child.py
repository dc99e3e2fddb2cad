"""A command beside the supervisor, for `exec` sources and sinks: how it is started, watched and ended.

It runs outside any jail, with the supervisor's rights; only agents with the capability have one.  It gets an argument
list (no shell), an environment of PATH and LC_ALL, no descriptors but its three, and a session of its own, so that
whatever it starts is ended with it.  The kernel ends it when the supervisor dies (PR_SET_PDEATHSIG).
Its exit is a readable pidfd: no thread waits for it.  The last bytes of its standard error go into the event.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from edgeswarm.drivers.handover import HandedProcess, Packer, Unpacker
from edgeswarm.limits import CHILD_KILL_MS, CHILD_STDERR_BYTES, CHILD_STOP_MS

ENVIRONMENT: Final = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
_PR_SET_PDEATHSIG: Final = 1
_PIPE_BYTES: Final = 64 * 1024
_prctl = ctypes.CDLL(None, use_errno=True).prctl


class Child:
    """One running command.  Make it with `start`, end it with `stop`."""

    def __init__(self, process: subprocess.Popen[bytes] | HandedProcess, *, listens: bool = True) -> None:
        """listens: to its standard error and its end; else `listen` begins it."""
        self._process = process
        self._loop = asyncio.get_running_loop()
        self._exited = asyncio.Event()
        if process.returncode is None:
            self._pidfd = os.pidfd_open(process.pid)
        else:  # what it wrote may still be read
            self._exited.set()
        self._stderr = process.stderr.fileno() if process.stderr is not None else -1
        self._tail = b""
        self._stderr_over = False
        self.pid = process.pid
        self.stdin_fd = process.stdin.fileno() if process.stdin is not None else -1
        self.stdout_fd = process.stdout.fileno() if process.stdout is not None else -1
        for fd in (self._stderr, self.stdin_fd, self.stdout_fd):
            if fd >= 0:
                os.set_blocking(fd, False)
        if listens:
            self.listen(on=True)

    def listen(self, *, on: bool) -> None:
        """Begin to hear of its end and its standard error, or stop for a hand-over."""
        if not self.running:
            return
        if on:
            self._loop.add_reader(self._pidfd, self._on_exit)
            if not self._stderr_over:
                self._loop.add_reader(self._stderr, self._on_stderr)
        else:
            self._loop.remove_reader(self._pidfd)
            self._loop.remove_reader(self._stderr)

    def parcel(self, packer: Packer) -> dict[str, object]:
        """For the next program of this process; nobody listens to the child from now on."""
        self.listen(on=False)
        if self.running:
            packer.child(self.pid)
        files = (self._process.stdin, self._process.stdout, self._process.stderr)
        stdio = [packer.fd(file.fileno()) if file is not None and not file.closed else -1 for file in files]
        code = self._process.returncode
        return {"pid": self.pid, "stdio": stdio, "code": code, "tail": self._tail, "stderr_over": self._stderr_over}

    @classmethod
    def unpack(cls, parcel: Mapping[str, Any], unpacker: Unpacker) -> Child:
        """One that an earlier program of this process has started; `listen` to it.  Raises LocalError, OSError."""
        stdin, stdout, stderr = (unpacker.fd(fd) if fd >= 0 else fd for fd in parcel["stdio"])
        process = HandedProcess(parcel["pid"], stdin=stdin, stdout=stdout, stderr=stderr)
        process.returncode = parcel["code"]
        child = cls(process, listens=False)
        child._tail, child._stderr_over = parcel["tail"], parcel["stderr_over"]
        return child

    @classmethod
    def start(cls, command: Sequence[str], *, cwd: Path, feeds: bool) -> Child:
        """feeds: we write to its standard input; else we read its standard output.  Raises OSError."""
        supervisor = os.getpid()

        def die_with_us() -> None:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != supervisor:  # it died in between
                os._exit(127)

        process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE if feeds else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if feeds else subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=ENVIRONMENT,
            bufsize=0,
            start_new_session=True,
            preexec_fn=die_with_us,
        )
        return cls(process)

    @property
    def running(self) -> bool:
        return not self._exited.is_set()

    async def exit(self) -> tuple[int, str]:
        """Its exit code (negative: the signal) and the end of what it said on standard error, once it is over."""
        await self._exited.wait()
        return self._process.returncode or 0, self._tail.decode(errors="replace").strip()

    def terminate(self) -> None:
        """Ask it and all it started to end; SIGKILL follows by `stop`."""
        self._signal(signal.SIGTERM)

    async def stop(self) -> None:
        """End it: SIGTERM, SIGKILL after CHILD_STOP_MS.  When it is cancelled itself, SIGKILL comes at once."""
        self.terminate()
        try:
            async with asyncio.timeout(CHILD_STOP_MS / 1000):
                await self._exited.wait()
        except TimeoutError:
            pass
        finally:
            self.kill()

    def kill(self) -> None:
        """End it at once, with all it started, and free what it held here."""
        self._signal(signal.SIGKILL)
        if self.running:
            try:
                self._process.wait(CHILD_KILL_MS / 1000)
            except subprocess.TimeoutExpired:
                pass  # stuck in the kernel: its pidfd will tell
            else:
                self._on_exit()
        if self._process.stdout is not None and not self._process.stdout.closed:
            self._loop.remove_reader(self.stdout_fd)
            self._process.stdout.close()
        self.close_stdin()

    def close_stdin(self) -> None:
        """Its input ends here."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._loop.remove_writer(self.stdin_fd)
            self._process.stdin.close()

    def _signal(self, number: signal.Signals) -> None:
        """To all of its session.  Only until it is waited for: then its number may be another's."""
        if self._process.returncode is not None:
            return
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            pass

    def _on_exit(self) -> None:
        if self._exited.is_set():
            return
        self._signal(signal.SIGKILL)  # what it leaves behind
        self._process.wait()
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        for _ in range(_PIPE_BYTES // CHILD_STDERR_BYTES + 1):  # all that its pipe can hold
            if not self._on_stderr():
                break
        self._loop.remove_reader(self._stderr)
        assert self._process.stderr is not None
        self._process.stderr.close()
        self._exited.set()

    def _on_stderr(self) -> bool:
        """Keep the end of what it said; False when there is no more now."""
        try:
            data = os.read(self._stderr, CHILD_STDERR_BYTES)
        except OSError:
            return False
        if not data:
            self._stderr_over = True
            self._loop.remove_reader(self._stderr)
        self._tail = (self._tail + data)[-CHILD_STDERR_BYTES:]
        return bool(data)
