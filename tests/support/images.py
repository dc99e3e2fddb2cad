"""A made-up image of a machine, for what is installed into one."""

from __future__ import annotations

from pathlib import Path


def image(root: Path, init: str = "systemd") -> Path:
    """The root of a machine with that init system, and three accounts."""
    for folder in ("etc", "sbin", "usr/bin", "usr/sbin", "var"):
        (root / folder).mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n# a remark\nmail:x:999:8::/:/bin/false")
    (root / "etc/group").write_text("root:x:0:\nmail:x:8:\n")
    (root / "etc/shadow").write_text("root:*:::::::\n")
    (root / "etc/shadow").chmod(0o640)
    (root / "usr/sbin/nologin").touch()
    if init == "systemd":
        (root / "lib/systemd").mkdir(parents=True)
        (root / "lib/systemd/systemd").touch()
        (root / "sbin/init").symlink_to("/lib/systemd/systemd")
    elif init == "openrc":
        (root / "sbin/openrc-run").touch()
    elif init == "procd":
        (root / "sbin/procd").touch()
    return root


def tree(root: Path) -> dict[str, bytes | str]:
    """path -> content, or the target of a link; folders are left out."""
    found: dict[str, bytes | str] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_file():
            found[name] = path.read_bytes()
    return found
