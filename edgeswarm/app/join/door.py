"""The daemon's side of joining and leaving: in and out of a cell while it runs, and joining by itself.

`swarm_join`, `swarm_leave`: ops of the control socket; `edgeswarm join` writes DIR/swarm in between.  A device that is
in no cell and finds a join.toml with a token on its boot partition starts `edgeswarm join` as a process of its own, so
that what joining needs (certificates, 10 MB) is gone again afterwards.
A daemon that enters a cell is called after its id from then on, and so is its control socket: who looks for it by the
state directory finds it.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeswarm.app.config import Settings
from edgeswarm.app.config import load as load_settings
from edgeswarm.app.control_ops import ControlOps, argument
from edgeswarm.app.join import folder
from edgeswarm.app.swarm import config as cell_config
from edgeswarm.errors import EdgeSwarmError, LocalError
from edgeswarm.ids import AgentName
from edgeswarm.limits import JOIN_SEEN_S

if TYPE_CHECKING:
    from edgeswarm.app.supervisor import Supervisor
    from edgeswarm.app.swarm.joining import Joining
    from edgeswarm.drivers.control import ControlServer

AGAIN_S, AGAIN_S_MAX = 5.0, 300.0
REFUSED = (2, 3, 5)  # exit codes of `edgeswarm join` that another try does not change
OUTPUT_BYTES_MAX = 4_096


class Door:
    """supervisor, joining, control: of this daemon."""

    def __init__(self, supervisor: Supervisor, ops: ControlOps, joining: Joining, control: ControlServer) -> None:
        self._supervisor, self._joining, self._control = supervisor, joining, control
        self._task: asyncio.Task[None] | None = None
        self._busy = asyncio.Lock()
        ops.serve(one={"swarm_join": self._enter, "swarm_leave": self._leave})

    async def start(self) -> None:
        """Remove what a cell left here; join by itself where a join.toml says so."""
        await self._remove_orphans()
        if cell_config.is_member(self._supervisor.settings.state_dir):
            return
        from edgeswarm.app.join import source

        try:
            path = source.boot_file()
        except EdgeSwarmError as error:
            self._supervisor.log.error("join_file_bad", error=str(error))
            return
        if path is not None:
            self._task = asyncio.create_task(self._join_by_itself(path))

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # --- in and out ---------------------------------------------------------------------------------------------------

    async def _enter(self, args: dict[str, Any]) -> Any:
        """DIR/swarm is there, new or renewed: be in that cell, and be heard in it."""
        from edgeswarm.app.join import seen

        controller = argument(args, "controller", str)
        wait_s = min(argument(args, "wait_s", float, JOIN_SEEN_S), 2 * JOIN_SEEN_S)
        sup = self._supervisor
        async with self._busy:
            config = cell_config.load(sup.settings.state_dir)
            await self._joining.close()
            self._rename(config.device)
            await self._joining.start()
            node = self._joining.node
            if node is None:
                raise LocalError("the daemon could not enter its cell; `edgeswarm logs` says why")
            await seen.confirm(node.peer, controller, by="daemon", wait_s=wait_s)
            await self._remove_orphans()
        self._note("fleet_join", config)
        return {"device": config.device, "cell": config.cell, "boot": node.boot}

    async def _leave(self, args: dict[str, Any]) -> Any:
        """Out of the cell: its agents are removed, DIR/swarm goes."""
        sup = self._supervisor
        async with self._busy:
            state_dir = sup.settings.state_dir
            if not cell_config.is_member(state_dir):
                raise LocalError("this device is in no cell")
            config = cell_config.load(state_dir)
            await self._joining.close()
            await asyncio.to_thread(folder.leave, state_dir)
            await self._remove_orphans()
            self._rename("")
        self._note("fleet_leave", config)
        return {"device": config.device, "fleet": config.fleet, "cell": config.cell}

    def _note(self, what: str, config: cell_config.CellConfig) -> None:
        target = f"{config.fleet}/{config.cell}"
        self._supervisor.log.info(what, device=config.device, fleet=config.fleet, cell=config.cell)
        self._supervisor.audit.record(what.replace("_", "."), who="local", target=target)

    def _rename(self, device: str) -> None:
        """Be called `device` from now on; "": as the settings say without a cell."""
        sup = self._supervisor
        settings = sup.settings
        name = device or plain_name(settings)
        if name == settings.device:
            return
        sup.settings = replace(settings, place=replace(settings.place, device=name))
        self._control.move(sup.settings.socket_path)

    async def _remove_orphans(self) -> None:
        """Agents of a cell that this device has left."""
        sup = self._supervisor
        state_dir = sup.settings.state_dir
        names = folder.orphans(state_dir)
        failed = False
        for name in names:
            if AgentName(name) not in sup.node.table.agents:
                continue
            try:
                await sup.remove(name)
                sup.log.info("cell_agent_removed", agent=name)
            except EdgeSwarmError as error:
                failed = True
                sup.log.error("cell_agent_not_stopped", agent=name, error=str(error))
        if names and not failed:
            folder.orphans_gone(state_dir)

    # --- by itself ----------------------------------------------------------------------------------------------------

    async def _join_by_itself(self, path: Path) -> None:
        sup, wait_s = self._supervisor, AGAIN_S
        while True:
            sup.log.info("joining", file=str(path))
            code, text = await self._run(path)
            if code == 0:
                return
            again = code not in REFUSED
            sup.log.error("not_joined", file=str(path), code=code, error=text, again_s=wait_s if again else None)
            if not again:
                return  # a new token, and a start, or `edgeswarm join`
            await asyncio.sleep(wait_s)
            wait_s = min(AGAIN_S_MAX, 2 * wait_s)

    async def _run(self, path: Path) -> tuple[int, str]:
        """Exit code and last words of `edgeswarm join`."""
        from edgeswarm.app.join.source import environ_without_token

        settings = self._supervisor.settings
        command = [sys.executable, "-m", "edgeswarm", "join", "--state", str(settings.state_dir)]
        command += ["--runtime", str(settings.runtime_dir), "--token-file", str(path)]
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=environ_without_token(),
        )
        try:
            assert process.stderr is not None
            text = b""
            while piece := await process.stderr.read(OUTPUT_BYTES_MAX):
                text = (text + piece)[-OUTPUT_BYTES_MAX:]
            code = await process.wait()
        except BaseException:
            process.kill()
            await process.wait()
            raise
        lines = text.decode(errors="replace").strip().splitlines()
        return code, lines[-1] if lines else ""


def plain_name(settings: Settings) -> str:
    """The name that this device has in no cell."""
    found = load_settings(profile=settings.profile_name, state=settings.state_dir)
    return found.device
