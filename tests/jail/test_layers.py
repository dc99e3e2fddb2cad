"""Each layer alone, so that one that stops nothing shows; what only seccomp stops is known; and the self-test sees."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import shutil
import struct
from pathlib import Path

import jail_kernels as k
import pytest

from edgeswarm.drivers.jail_policy import filter_name
from edgeswarm.drivers.jails import JailHost, JailStartError
from edgeswarm.drivers.probe_host import CORE

pytestmark = pytest.mark.e2e

ALLOW_ALL = struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF_0000)
EXPECTED = json.loads((k.SANDBOX / "probes.json").read_text())


@pytest.mark.parametrize("who", ["root", "user"])
def test_every_layer_stops_something_and_seccomp_stops_what_nothing_else_does(who: str) -> None:
    """Read from the matrix, which `test_probes.py` holds against this machine."""
    found = {column: set(names) for column, names in EXPECTED[who].items()}
    for layer in CORE:
        assert found[f"only_{layer}"] < found["bare"], layer
    assert {"open_passwd", "socket_inet_stream", "socket_unix_stream", "memory_file", "map_executable"} <= found["bare"]
    for layer in ("namespaces", "landlock", "limits", "seccomp"):
        assert "open_passwd" not in found[f"only_{layer}"], layer
    assert "make_data_executable" not in found["only_exec_gain"]
    assert "make_code_writable" not in found["only_seal"]
    assert len(found["only_seccomp"]) < 12
    assert len(found["without_seccomp"]) > 50, "seccomp would be optional"
    assert not found["full"] | found["tier_B"] | found["tier_C"]
    for layer, example in (
        ("seal", "make_code_writable"),
        ("limits", "more_memory_than_allowed"),
        ("descriptors", "leaked_descriptors"),
    ):
        assert example in found[f"without_{layer}"], "nothing else stops it"


def test_the_page_counts_what_the_matrix_holds() -> None:
    page = (k.SANDBOX / "README.md").read_text()
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| (\d+) \| (\d+) \|", page, re.MULTILINE)
    told = {name: (int(root), int(user)) for names, root, user in rows for name in re.findall(r"`(\w+)`", names)}
    assert told == {
        column: (len(EXPECTED["root"][column]), len(EXPECTED["user"].get(column, []))) for column in EXPECTED["root"]
    }
    assert f"{EXPECTED['probes']} probes" in page


def policy_folder(folder: Path) -> Path:
    """sandbox/ with filters of `strict` that allow everything."""
    shutil.copytree(k.SANDBOX / "policies", folder / "policies")
    shutil.copytree(k.SANDBOX / "bpf", folder / "bpf")
    manifest = json.loads((folder / "bpf" / "manifest.json").read_text())
    for stage in (1, 2):
        name = filter_name("strict", stage, platform.machine())
        (folder / "bpf" / name).write_bytes(ALLOW_ALL)
        manifest["strict"]["filters"][name] = hashlib.sha256(ALLOW_ALL).hexdigest()
    (folder / "bpf" / "manifest.json").write_text(json.dumps(manifest))
    return folder


async def test_a_jail_that_lacks_a_layer_of_its_plan_does_not_become_ready(tmp_path: Path, cache_dir: Path) -> None:
    """The self-test finds that the filter of stage 2 lets through what it should not."""
    host = JailHost(policy_dir=policy_folder(tmp_path / "open"), cache_dir=cache_dir, mac_key=k.MAC_KEY)
    await host.start()
    code = await host.compile(k.assemble(k.MOODY))
    with pytest.raises(JailStartError, match="self-test: .* is possible"):
        await host.spawn([k.moody_spec(code)], on_reply=lambda _: None, on_exit=lambda _: None)
    await host.close()
