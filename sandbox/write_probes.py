"""Writes sandbox/probes.json, the expected matrix, from what `edgeswarm sandbox probe --alone --json` printed.

    edgeswarm sandbox probe --alone --json > root.json     (as root)
    edgeswarm sandbox probe --alone --json > user.json     (as an ordinary user, on the same machine)
    python sandbox/write_probes.py root.json user.json

Read the difference before it is committed: a probe that is new in a column is a promise that is broken there.
"""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

VARIES = {
    "bind_to_a_processor": "which processors this process may use",
    "bpf_map": "kernel.unprivileged_bpf_disabled",
    "bpf_program": "kernel.unprivileged_bpf_disabled",
    "create_file_in_shared_memory": "whether /dev/shm is mounted",
    "fanotify": "user.max_fanotify_groups",
    "int80_getpid": "CONFIG_IA32_EMULATION",
    "int80_open": "CONFIG_IA32_EMULATION",
    "int80_socketcall": "CONFIG_IA32_EMULATION",
    "io_uring_enter": "kernel.io_uring_disabled",
    "io_uring_register": "kernel.io_uring_disabled",
    "io_uring_setup": "kernel.io_uring_disabled",
    "kernel_log": "kernel.dmesg_restrict",
    "local_descriptor_table": "CONFIG_MODIFY_LDT_SYSCALL",
    "open_tty": "whether there is a terminal",
    "perf_event": "kernel.perf_event_paranoid",
    "protection_key": "the processor",
    "secret_memory": "secretmem.enable",
    "security_attributes": "which security modules are active",
    "socket_inet_ping": "net.ipv4.ping_group_range",
    "socket_netlink_audit": "CONFIG_AUDIT",
    "tell_connections": "CONFIG_PROC_FS and the network namespace",
    "tell_energy": "the processor",
    "tell_kernel_symbols": "CONFIG_KALLSYMS",
    "tell_machine_id": "whether /etc/machine-id exists",
    "tell_own_page_map": "CONFIG_PROC_PAGE_MONITOR",
    "tell_schedule": "CONFIG_SCHEDSTATS",
    "tell_temperature": "the board",
    "trace_sibling": "kernel.yama.ptrace_scope",
    "trace_supervisor": "kernel.yama.ptrace_scope",
    "trace_zygote": "kernel.yama.ptrace_scope",
    "read_memory_of_sibling": "kernel.yama.ptrace_scope",
    "write_memory_of_sibling": "kernel.yama.ptrace_scope",
    "userfaultfd": "vm.unprivileged_userfaultfd",
    "vsyscall_time": "vsyscall=",
    "x32_execve": "CONFIG_X86_X32_ABI",
    "x32_getpid": "CONFIG_X86_X32_ABI",
}
"""Probes of which something else than the layers decides, where seccomp is left out."""


def columns(told: dict[str, Any]) -> dict[str, list[str]]:
    return {column: sorted(p["name"] for p in told["probes"] if p[column] == "open") for column in told["open"]}


def written(root: dict[str, Any], user: dict[str, Any]) -> str:
    """JSON with a line for as many names as fit, so that a difference can be read."""
    lines = [
        "{",
        f'"kernel": "{".".join(root["kernel"].split(".")[:2])}",',
        f'"machine": "{root["machine"]}",',
        f'"probes": {len(root["probes"])},',
    ]
    for who, told in (("root", root), ("user", user)):
        found = columns(told)
        lines.append(f'"{who}": {{')
        for number, (column, names) in enumerate(found.items(), 1):
            comma = "," if number < len(found) else ""
            text = ", ".join(f'"{name}"' for name in names)
            wrapped = textwrap.wrap(text, 116, break_long_words=False, break_on_hyphens=False)
            lines += [f' "{column}": [', *(f"  {line}" for line in wrapped), f" ]{comma}"]
        lines.append("},")
    lines += [f'"varies": {json.dumps(VARIES, indent=1, sort_keys=True)}', "}"]
    return "\n".join(lines) + "\n"


def main() -> None:
    root, user = (json.loads(Path(name).read_text()) for name in sys.argv[1:3])
    text = written(root, user)
    assert json.loads(text)["probes"] == len(root["probes"])
    (Path(__file__).resolve().parent / "probes.json").write_text(text)


if __name__ == "__main__":
    main()
