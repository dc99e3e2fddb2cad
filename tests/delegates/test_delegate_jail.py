"""A delegate's jail seen from outside: every layer in force on every thread, and nothing left open."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import delegated as d
import jail_kernels as k
import pytest

from edgeswarm.drivers.delegates import runtimes
from edgeswarm.drivers.delegates.hosts import policy_of, spec_for
from edgeswarm.drivers.delegates.trial import layout_of
from edgeswarm.drivers.jail_sync import SyncHost, SyncJail
from edgeswarm.drivers.jail_zygote import Program
from edgeswarm.errors import TrapError
from edgeswarm.jail import delegate_model

pytestmark = pytest.mark.e2e

SWIFTSHADER = "/usr/lib/chromium/vk_swiftshader_icd.json"
KINDS = ["fake", "ai_edge_litert", "tflite_runtime", "gpu"]


@pytest.fixture(params=KINDS, scope="module")
def jail(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SyncJail]:
    """One that serves the test model with as many threads as there may be."""
    kind: str = request.param
    name: runtimes.Name = {"tflite_runtime": "tflite", "gpu": "gpu"}.get(kind, "litert")  # type: ignore[assignment]
    module = "ai_edge_litert" if kind == "gpu" else kind
    packages = str(d.FAKE) if kind == "fake" else d.real_packages(module)
    if not packages:
        pytest.skip(f"{module} is not installed, in no environment of build/peers either")
    if kind == "gpu" and not Path(SWIFTSHADER).is_file():
        pytest.skip("no software Vulkan here: apt install chromium libvulkan1")
    delegate = runtimes.find(name, packages=packages, driver=SWIFTSHADER if kind == "gpu" else "")
    layout = layout_of(delegate_model.WIDTH_IN, delegate_model.WIDTH_OUT)
    spec = spec_for(delegate, name="a", model=d.TINY, layout=layout, deadline_ms=5000, threads=4)
    program = Program(delegate.runtime.package.worker, (delegate.runtime.folder,))
    with ExitStack() as stack:
        host = stack.enter_context(
            SyncHost(
                policy_dir=k.SANDBOX, cache_dir=tmp_path_factory.mktemp("cache"), mac_key=k.MAC_KEY, program=program
            )
        )
        if host.tier != "A" and kind == "gpu":
            pytest.skip(f"tier {host.tier}: a GPU's jail wants tier A")
        made = stack.enter_context(host.spawn([spec], policy=policy_of(delegate)))
        assert not made.faults
        yield made


def status_of(path: str) -> dict[str, str]:
    return {key: value.strip() for key, value in (line.split(":", 1) for line in Path(path).read_text().splitlines())}


def test_it_answers_rightly_and_again_after_a_frame_that_is_none(jail: SyncJail) -> None:
    for _ in range(3):
        assert k.values(jail.call(0, delegate_model.INPUT)) == delegate_model.ANSWER
    rows = delegate_model.INPUT * 5
    assert k.values(jail.call(0, rows, 5)) == delegate_model.ANSWER * 5
    with pytest.raises(TrapError, match="memory"):
        _send_memory(jail)
    assert k.values(jail.call(0, delegate_model.INPUT)) == delegate_model.ANSWER


def _send_memory(jail: Any) -> None:
    """What a supervisor never sends to a delegate: it is refused, and the jail goes on."""
    from edgeswarm.jail.frames import Kind

    jail._link.send_own(0, Kind.MEMORY, jail._link.next_own_seq(), b"1234")
    jail._acknowledged()


def test_every_thread_is_filtered_twice_and_has_no_privileges(jail: SyncJail) -> None:
    jail.call(0, delegate_model.INPUT)
    threads = os.listdir(f"/proc/{jail.pid}/task")
    assert len(threads) >= 2
    for thread in threads:
        status = status_of(f"/proc/{jail.pid}/task/{thread}/status")
        assert (status["Seccomp"], status["Seccomp_filters"], status["NoNewPrivs"]) == ("2", "2", "1")
        for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[kind], 16) == 0, (kind, status["Name"])
        assert status["Uid"].split()[0] != "0"


def test_nothing_in_it_is_writable_and_executable(jail: SyncJail) -> None:
    jail.call(0, delegate_model.INPUT)
    lines = [line.split() for line in Path(f"/proc/{jail.pid}/maps").read_text().splitlines()]
    assert not [line for line in lines if "w" in line[1] and "x" in line[1]]


def test_it_has_the_descriptors_of_its_protocol_only(jail: SyncJail) -> None:
    """A driver's events and shared memory beside them: SwiftShader has none."""
    folder = f"/proc/{jail.pid}/fd"
    found = {fd: os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)}
    kinds = sorted(target.split(":")[0].rsplit("/", 1)[-1] for target in found.values())
    assert kinds == ["null"] * 3 + ["pipe"] * 3 + ["socket"]


def test_its_root_is_empty(jail: SyncJail) -> None:
    if "EmptyRoot" not in jail.ready["performed"]:
        pytest.skip("no namespaces on this machine: tier B or C")
    for thread in os.listdir(f"/proc/{jail.pid}/task"):
        assert os.listdir(f"/proc/{jail.pid}/task/{thread}/root/") == []
