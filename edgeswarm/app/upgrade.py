"""The supervisor becomes another version of itself, and its jails notice nothing; docs/upgrade.md tells the whole.

Here is who decides: whether another version is tried at all (its self-check, a child that ends), when to leave, and,
in the new one, whether it stays: for `healthy_s` it is on probation, and hands back to the old one at the first fault
of its own.  The state is `handover_pack` and `handover_unpack`; the fall back before anything runs, `handover_guard`.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

import cbor2

from edgeswarm import __version__
from edgeswarm.app import handover_guard as guarding
from edgeswarm.app.control_ops import argument
from edgeswarm.app.handover_pack import Departure
from edgeswarm.app.handover_unpack import Arrival
from edgeswarm.drivers.handover import Unpacker
from edgeswarm.drivers.notify import Notifier
from edgeswarm.errors import EdgeSwarmError, LimitError, LocalError, RemoteError
from edgeswarm.limits import (
    UPGRADE_CHECK_S,
    UPGRADE_HEALTHY_S,
    UPGRADE_PROGRAM_ARGUMENTS_MAX,
    UPGRADE_S_MAX,
    UPGRADE_START_S,
)

if TYPE_CHECKING:
    from edgeswarm.app.control_ops import ControlOps
    from edgeswarm.app.supervisor import Supervisor
    from edgeswarm.app.swarm.joining import Joining
    from edgeswarm.drivers.control import ControlServer

CHECK_FLAG: Final = "--check-handover"
_LOOKS: Final = 20
"""So often is a new version looked at while it is on probation."""
_LOOK_S_MAX: Final = 1.0
_PING_S: Final = 10.0
_ANSWER_S: Final = 0.05
"""So that who asked for the upgrade hears that it begins."""
_WORD_BYTES_MAX: Final = 4_096
_TOLD_CHARS_MAX: Final = 2_000


class Upgrade:
    """Of one daemon.  arguments: with which its program was started, from `run` on."""

    def __init__(
        self,
        supervisor: Supervisor,
        ops: ControlOps,
        *,
        arguments: Sequence[str],
        ended: asyncio.Event,
        swarm: Joining,
        control: ControlServer,
        notifier: Notifier,
    ) -> None:
        self._sup, self._swarm, self._control, self._notifier = supervisor, swarm, control, notifier
        self._arguments, self._ended = list(arguments), ended
        self._guard = guarding.current
        self._old: guarding.Header | None = None  # whom to hand back to, while on probation
        self._task: asyncio.Task[None] | None = None
        self._faults = ""
        self._listener = -1
        self._busy = False
        self._hushed = False
        self.state: dict[str, Any] = {"state": "none", "why": "", "before": "", "count": 0, "began_at": 0.0}
        ops.serve(one={"upgrade": self._asked, "upgrade_status": self._status})

    @property
    def arrives(self) -> bool:
        """Something was handed over to this process."""
        return self._guard is not None

    async def close(self) -> None:
        """The daemon is told to end.  Past the point of no return it does so in its next life: see `go_live`."""
        if self._task is not None:
            if not self._hushed:
                self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # --- asked for ------------------------------------------------------------------------------------------------

    async def _status(self, args: dict[str, Any]) -> Any:
        """{state: none | leaving | probation | healthy | rolled_back, why, before, count, version, pid}"""
        return {**self.state, "version": __version__, "pid": os.getpid()}

    async def _asked(self, args: dict[str, Any]) -> Any:
        """The op `upgrade`: {program: the command that is `edgeswarm` of the other version, start_s, healthy_s}.

        Answers once this one has come to rest and leaves; raises LocalError where it stays.
        """
        program = _program(args)
        start_s, healthy_s = _seconds(args, "start_s", UPGRADE_START_S), _seconds(args, "healthy_s", UPGRADE_HEALTHY_S)
        if self._busy or self._old is not None:
            raise LocalError("upgrade: one is under way; wait until it has succeeded, or was rolled back")
        self._busy = True
        try:
            found = await self._check(program)
            departure = Departure(self._sup)
            await departure.rest()
        except BaseException as error:
            self._busy = False
            self._sup.log.warning("upgrade_refused", program=program, error=str(error))
            raise
        self.state |= {"state": "leaving", "why": "", "before": __version__, "began_at": time.time()}
        self._sup.log.info("upgrade_begins", version=found["version"], program=program)
        argv = [*program, *self._arguments]
        self._task = asyncio.create_task(self._leave(departure, argv, dict(os.environ), start_s, healthy_s))
        return {"state": "leaving", "from": __version__, "to": found["version"], "count": self.state["count"] + 1}

    async def _check(self, program: Sequence[str]) -> dict[str, Any]:
        """What the other version says of itself.  Raises LocalError, RemoteError where it cannot take over."""
        command = [*program, *self._arguments, CHECK_FLAG]
        who = " ".join(program)[:200]
        try:
            done = await asyncio.to_thread(
                subprocess.run,
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=UPGRADE_CHECK_S,
                check=False,
            )
        except (OSError, ValueError) as error:
            raise LocalError(f"upgrade: {who}: cannot be started: {error}") from None
        except subprocess.TimeoutExpired:
            raise LimitError(f"upgrade: {who}: no self-check within {UPGRADE_CHECK_S:g} s") from None
        said = done.stderr.decode(errors="replace").strip()[-_TOLD_CHARS_MAX:]
        if done.returncode:
            raise RemoteError(f"its self-check ended with exit code {done.returncode}: {said}", who=who)
        try:
            found = json.loads(done.stdout.splitlines()[-1])
            version, formats = str(found["version"]), list(found["formats"])
        except (ValueError, KeyError, TypeError, IndexError):
            raise RemoteError("its self-check did not say which hand-overs it reads", who=who) from None
        if guarding.FORMAT not in formats:
            raise RemoteError(f"it reads hand-overs of format {formats}, ours is {guarding.FORMAT}", who=who)
        return {"version": version}

    # --- leaving --------------------------------------------------------------------------------------------------

    async def _leave(
        self, departure: Departure, argv: list[str], environ: dict[str, str], start_s: float, healthy_s: float
    ) -> None:
        await asyncio.sleep(_ANSWER_S)
        try:
            await departure.rest()  # something may have begun by itself: a jail that died is replaced
        except EdgeSwarmError as error:
            self._busy = False
            self.state |= {"state": "rolled_back", "why": str(error)}
            self._sup.log.warning("upgrade_refused", program=argv, error=str(error))
            return
        header = await self._depart(departure, start_s, healthy_s)
        self.state["count"] += 1
        fd = self._written(header, departure)
        try:
            guarding.become(argv, {**environ, guarding.ENV: str(fd)}, (fd, *departure.packer.fds))
        except OSError as error:
            self._resume(fd, header, f"{argv[0]}: {error.strerror or error}")

    async def _depart(self, departure: Departure, start_s: float, healthy_s: float) -> dict[str, Any]:
        """Fall silent, with nothing awaited since `rest`; the header of what is handed over.  From here on there is no
        way but an exec, or an end."""
        self._notifier.reloading()
        if self._notifier.watchdog_s is not None:
            self._notifier.beat()
        sup, self._hushed = self._sup, True
        sup.audit.record("supervisor.handover", who="edgeswarm", target=sup.settings.device)
        try:
            self._control.pause()
            await departure.hush()
            await self._swarm.close(leaving=True)
            await asyncio.to_thread(sup.audit.close)
            await departure.gather()
            self._listener = departure.packer.fd(self._control.listener_fd)
        except Exception as error:
            self._cold(f"the state could not be gathered: {type(error).__name__}: {error}")
        return {
            "format": guarding.FORMAT,
            "argv": [*guarding.own_program(), *self._arguments],
            "environ": dict(os.environ),
            "reads": list(guarding.READS),
            "version": __version__,
            "start_s": start_s,
            "healthy_s": healthy_s,
        }

    def _written(self, header: Mapping[str, Any], departure: Departure) -> int:
        try:
            more = {"upgrade": self.state, "control": self._listener, "ended": self._ended.is_set()}
            body = cbor2.dumps({**departure.pack(), **more})
            kept = {"fds": departure.packer.fds, "children": departure.packer.children}
            return guarding.write({**header, **kept}, body)
        except Exception as error:
            self._cold(f"the state could not be packed: {type(error).__name__}: {error}")

    def _resume(self, fd: int, header: Mapping[str, Any], why: str) -> NoReturn:
        """The other program could not even be executed: this one again, with the same hand-over."""
        guard = guarding.Guard(fd, guarding.read_header(fd))
        guard.fail(why)

    def _cold(self, why: str) -> NoReturn:
        """Nothing can be handed over: this program again, from its checkpoints.  Its jails end."""
        sup = self._sup
        host = sup.host
        children = [] if host is None or host.zygote_pid == 0 else [host.zygote_pid]
        header = guarding.Header(
            guarding.FORMAT, [*guarding.own_program(), *self._arguments], dict(os.environ), [], __version__, [],
            children, 0.0, 0.0,
        )  # fmt: skip
        guarding.Guard(-1, header).cold(why)

    # --- coming ---------------------------------------------------------------------------------------------------

    async def arrive(self, *starts: Callable[[], Awaitable[None]]) -> None:
        """In place of `Supervisor.start` and `ControlServer.start`.  starts: what else must work before it counts.

        An error ends this program, at once: nothing may be closed, it is the old one's too.
        """
        guard = self._guard
        assert guard is not None
        try:
            arrival = await self._adopt(guard)
            for start in starts:
                await start()
        except BaseException as error:
            guard.fail(f"{type(error).__name__}: {error}")
        guard.commit()
        guarding.current = self._guard = None
        arrival.go_live()
        await self._control.adopt(self._listener)
        self._judge(guard)

    async def _adopt(self, guard: guarding.Guard) -> Arrival:
        state = cbor2.loads(guard.body())
        assert guard.header is not None
        unpacker = Unpacker(guard.header.fds)
        arrival = Arrival(self._sup, unpacker)
        await arrival.adopt(state)
        self._listener = unpacker.fd(state["control"])
        self.state = dict(state["upgrade"])
        if state["ended"]:
            self._ended.set()
        return arrival

    def _judge(self, guard: guarding.Guard) -> None:
        """A version that came by an upgrade is on probation from here on; one that has its own back is told why."""
        assert guard.header is not None
        sup = self._sup
        if guard.why:
            self.state |= {"state": "rolled_back", "why": guard.why}
            sup.log.error("upgrade_rolled_back", why=guard.why, version=__version__)
            sup.audit.record(
                "supervisor.upgrade", who="edgeswarm", target=__version__, outcome="failed", reason=guard.why
            )
            self._end_trial()
            return
        self.state |= {"state": "probation", "why": ""}
        took_ms = round((time.time() - self.state["began_at"]) * 1000)
        sup.log.info("handover_taken", jails=len(sup.jails), before=guard.header.version, took_ms=took_ms)
        self._old = guard.header
        asyncio.get_running_loop().set_exception_handler(self._loop_fault)
        self._task = asyncio.create_task(self._probation(guard.header.healthy_s))

    def _end_trial(self) -> None:
        """A bundle's link is turned back, where this user may do that; else who upgraded does."""
        from edgeswarm.drivers.service.prefix import Prefix

        prefix = Prefix.of_this_program()
        try:
            if prefix is not None and prefix.roll_back() is not None:
                self._sup.log.info("trial_ended", prefix=str(prefix.path), version=__version__)
        except (EdgeSwarmError, OSError) as error:
            self._sup.log.warning("trial_not_ended", error=str(error))

    @property
    def on_probation(self) -> bool:
        return self._old is not None

    # --- probation ------------------------------------------------------------------------------------------------

    def _loop_fault(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        loop.default_exception_handler(context)
        error = context.get("exception")
        if error is not None:
            self.faulty(f"{context.get('message', '')}: {type(error).__name__}: {error}")

    def faulty(self, why: str) -> None:
        """A fault of this program's own, which on probation is its end."""
        self._faults = self._faults or why

    async def _probation(self, healthy_s: float) -> None:
        loop = asyncio.get_running_loop()
        until, crashes = loop.time() + healthy_s, self._sup.log.crashes
        while loop.time() < until:
            await asyncio.sleep(min(_LOOK_S_MAX, healthy_s / _LOOKS))
            if self._sup.log.crashes != crashes:
                self.faulty(self._sup.log.last_crash)
            if not self._faults:
                await self._ask_ourselves()
            if self._faults:
                await self.hand_back(self._faults)
        loop.set_exception_handler(None)
        self._old = None
        self.state["state"] = "healthy"
        if self._sup.host is not None and self._sup.host.renew():
            self._sup.log.info("zygote_renewed", pid=self._sup.host.zygote_pid)
        self._sup.log.info("upgrade_healthy", version=__version__, before=self.state["before"], after_s=healthy_s)
        self._sup.audit.record("supervisor.upgrade", who="edgeswarm", target=__version__)
        from edgeswarm.drivers.service.prefix import Prefix

        prefix = Prefix.of_this_program()
        try:
            if prefix is not None and prefix.confirm():
                self._sup.log.info("trial_ended", prefix=str(prefix.path), version=__version__)
        except OSError as error:
            self._sup.log.warning("trial_not_ended", error=str(error))

    async def _ask_ourselves(self) -> None:
        """The control loop runs, and who asks by the socket is answered."""
        from edgeswarm.drivers import control

        sup = self._sup
        if sup._loop_task is None or sup._loop_task.done():
            return self.faulty("the control loop has ended")
        try:
            async with asyncio.timeout(_PING_S):
                reader, writer = await asyncio.open_unix_connection(str(sup.settings.socket_path))
                try:
                    writer.write(control.pack({"op": "status", "args": {}}))
                    (size,) = control.LENGTH.unpack(await reader.readexactly(control.LENGTH.size))
                    answer = control.unpack(await reader.readexactly(size))
                finally:
                    writer.close()
        except (OSError, TimeoutError, EdgeSwarmError, asyncio.IncompleteReadError) as error:
            return self.faulty(f"the control socket does not answer: {error or type(error).__name__}")
        if not answer.get("ok"):
            self.faulty(f"the op status: {answer.get('error')}")
        return None

    async def hand_back(self, why: str) -> None:
        """To the old version, with the state as it is now."""
        old = self._old
        assert old is not None
        self._sup.log.error("upgrade_unhealthy", why=why, version=__version__, before=old.version)
        departure = Departure(self._sup)
        self._busy = True
        try:
            if guarding.FORMAT not in old.reads:
                raise LocalError(f"version {old.version} reads hand-overs of format {old.reads}")
            await departure.rest()
        except EdgeSwarmError as error:
            guarding.Guard(-1, old).cold(f"{why}; and it cannot be handed back: {error}")
        header = await self._depart(departure, old.start_s, old.healthy_s)
        header |= {"argv": old.argv, "environ": old.environ, "version": old.version, "reads": old.reads}
        fd = self._written(header, departure)
        guarding.Guard(fd, guarding.read_header(fd)).fail(why)


def _program(args: Mapping[str, Any]) -> list[str]:
    """Raises RemoteError, LocalError."""
    program = argument(dict(args), "program", list)
    if not 1 <= len(program) <= UPGRADE_PROGRAM_ARGUMENTS_MAX:
        raise RemoteError(
            f"upgrade: program: expected 1 to {UPGRADE_PROGRAM_ARGUMENTS_MAX} words, found {len(program)}"
        )
    for word in program:
        if type(word) is not str or not word or len(word) > _WORD_BYTES_MAX or "\0" in word:
            raise RemoteError(
                f"upgrade: program: expected words of at most {_WORD_BYTES_MAX} bytes, found {word!r:.80}"
            )
    if not os.path.isabs(program[0]) or not os.access(program[0], os.X_OK):
        raise LocalError(f"upgrade: program: expected the absolute path of an executable, found {program[0]!r:.200}")
    return [str(word) for word in program]


def _seconds(args: Mapping[str, Any], key: str, default: float) -> float:
    value = argument(dict(args), key, float, default)
    if not 0.1 <= value <= UPGRADE_S_MAX:
        raise RemoteError(f"upgrade: {key}: expected 0.1 to {UPGRADE_S_MAX:g} seconds, found {value:g}")
    return value


def self_check() -> dict[str, Any]:
    """What `run --check-handover` prints: everything that a take-over needs was imported, else it raises."""
    from edgeswarm.app import daemon  # noqa: F401 - that it can be imported is what is checked
    from edgeswarm.app.swarm import node  # noqa: F401
    from edgeswarm.drivers import exec_sink, jsonl_sink, socket_sink, sources_exec, sources_tail  # noqa: F401

    return {"version": __version__, "formats": list(guarding.READS)}
