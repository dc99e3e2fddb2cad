"""Compiles sandbox/policies/*.toml into the raw seccomp filters of sandbox/bpf/; run by `make seccomp`.

How a filter is made of a policy is in edgeswarm/drivers/jail_filter.py.  Beside each filter lies its readable form, and
`manifest.json` holds every SHA-256, and of every policy the text that they were made from.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

from edgeswarm.drivers.jail_filter import BuildError, Resolve, assemble, describe, resolve_by_libseccomp, rules_of
from edgeswarm.drivers.jail_policy import ARCHES, filter_name, read_policy_file, source_digest

__all__ = ["BuildError", "build", "resolve_by_libseccomp", "rules_of"]

HERE = Path(__file__).resolve().parent


def build(folder: Path, resolve: Resolve) -> dict[str, bytes]:
    """Every file of bpf/ for the policies in `folder`/policies: name -> content.  Raises BuildError, ConfigError."""
    files: dict[str, bytes] = {}
    manifest = {}
    for path in sorted((folder / "policies").glob("*.toml")):
        policy = read_policy_file(path)
        hashes = {}
        for stage_number, stage in ((1, policy.stage_1), (2, policy.stage_2)):
            for arch in ARCHES:
                rules = list(rules_of(policy.name, stage, arch, resolve))
                program = assemble(rules, arch)
                name = filter_name(policy.name, stage_number, arch)
                files[name] = program
                readable = describe(policy.name, stage_number, arch, rules)
                files[name.removesuffix(".bpf") + ".txt"] = readable.encode("ascii")
                hashes[name] = hashlib.sha256(program).hexdigest()
        manifest[policy.name] = {"source": source_digest(path), "filters": hashes}
    files["manifest.json"] = (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode("ascii")
    return files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, default=HERE, help="folder with policies/; bpf/ is written beside it")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when something would change")
    chosen = parser.parse_args()
    bpf = chosen.folder / "bpf"
    files = build(chosen.folder, resolve_by_libseccomp)
    stale = {path.name for path in bpf.glob("*") if path.name not in files}
    changed = {n for n, content in files.items() if not (bpf / n).is_file() or (bpf / n).read_bytes() != content}
    if not chosen.check:
        bpf.mkdir(exist_ok=True)
        for name in sorted(changed):
            (bpf / name).write_bytes(files[name])
        for name in sorted(stale):
            (bpf / name).unlink()
    sys.stdout.write(f"{len(files)} files, {len(changed)} changed, {len(stale)} stale\n")
    return 1 if chosen.check and (changed or stale) else 0


if __name__ == "__main__":
    sys.exit(main())
