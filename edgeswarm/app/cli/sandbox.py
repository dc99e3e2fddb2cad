"""`edgeswarm sandbox`: what jails are made of, and whether they hold, tried on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeswarm.app.cli import output
from edgeswarm.app.cli.root import LazyGroup
from edgeswarm.errors import LocalError

if TYPE_CHECKING:
    from edgeswarm.drivers.jail_policy_file import Only, PolicyFile
    from edgeswarm.drivers.probe_matrix import Matrix


@click.group(
    cls=LazyGroup,
    table={
        "probe": (
            "sandbox",
            "probe",
            "Try to break out of real jails on this machine, with each layer left out in turn.",
        ),
        "policies": ("sandbox", "policies", "List the sandbox policies, or check one of your own."),
        "explain": ("sandbox", "explain", "Show what a policy allows, and why, call by call."),
        "diagnose": ("sandbox_diagnose", "diagnose", "Find out which system call an agent is quarantined for."),
    },
)
def sandbox() -> None:
    """What jails are made of, and whether they hold.

    \b
    Examples:
      edgeswarm sandbox probe
      edgeswarm sandbox policies --check mine.toml
      edgeswarm sandbox explain strict
    """


@click.command()
@output.json_option
@click.option("--layer", default="", metavar="NAME", help="Only probes of this layer or group (see --list).")
@click.option("--name", "names", multiple=True, metavar="PATTERN", help="Only probes of this name; several, with *.")
@click.option("--column", "columns", multiple=True, metavar="NAME", help="Only these columns besides the full jail.")
@click.option("--alone", is_flag=True, help="Also with each layer alone.")
@click.option("--full-only", is_flag=True, help="Only the full jail: seconds instead of minutes.")
@click.option("--list", "lists", is_flag=True, help="List the probes and try none.")
@click.option(
    "--all", "shows_all", is_flag=True, help="Show every probe, not only those that some column lets through."
)
def probe(
    as_json: bool,
    layer: str,
    names: tuple[str, ...],
    columns: tuple[str, ...],
    alone: bool,
    full_only: bool,
    lists: bool,
    shows_all: bool,
) -> int:
    """Try to break out of real jails on this machine: files, sockets, processes, the kernel, code, rings, wasm.

    Every probe runs in a jail of its own, after all that a jail does before its first sample; it does no harm where it
    works. Then again with each layer left out, and in the weaker tiers, so that a layer that stops nothing shows. As
    root and as an ordinary user; no supervisor is needed, a running one is not touched.

    Ends with 7 when a probe is open in the full jail, or one of its threads lacks a filter.

    \b
    Examples:
      edgeswarm sandbox probe --full-only
      edgeswarm sandbox probe --layer landlock
      edgeswarm sandbox probe --json | jq '.probes[] | select(.full != "blocked")'
    """
    from edgeswarm.assets import asset
    from edgeswarm.drivers import probe_host, probe_matrix
    from edgeswarm.errors import JailError

    rows = probe_matrix.chosen_rows(names, layer)
    if lists:
        tree = [{"name": row.name, "layer": row.layer, "group": row.group} for row in rows]
        output.emit(
            tree,
            as_json=as_json,
            text=lambda: output.table(("PROBE", "LAYER", "GROUP"), [(r.name, r.layer, r.group) for r in rows]),
        )
        return 0
    offered = probe_matrix.offered_tier(asset("sandbox"))
    is_root = os.geteuid() == 0
    picked = probe_matrix.pick(offered, is_root=is_root, names=("full",) if full_only else columns)
    if alone:
        known = probe_host.columns(offered, is_root=is_root)
        picked += [column for column in known if column.name.startswith("only_")]
    with output.progress(len(rows) * len(picked), "Probing", quiet=as_json) as told:
        found = probe_matrix.run(asset("sandbox"), rows, picked, told)
    output.emit(found.to_json(), as_json=as_json, text=lambda: _text(found, shows_all=shows_all))
    return JailError.exit_code if found.open or found.unguarded else 0


_MARKS = {"blocked": "-", "open": "OPEN", "untried": "?"}


def _text(found: Matrix, *, shows_all: bool) -> str:
    shown = [
        row
        for row in found.rows
        if shows_all or any(found.answers[column][row.name].status == "open" for column in found.columns)
    ]
    short = [column.removeprefix("without_") if column.startswith("without_") else column for column in found.columns]
    heads = [
        f"-{name}" if column.startswith("without_") else name for name, column in zip(short, found.columns, strict=True)
    ]
    lines = []
    if shown:
        table = output.table(
            ("PROBE", "LAYER", *heads),
            [
                (row.name, row.layer, *(_MARKS[found.answers[column][row.name].status] for column in found.columns))
                for row in shown
            ],
        )
        lines += [table, ""]
    if len(shown) < len(found.rows):
        lines.append(f"{len(found.rows) - len(shown)} probes that no column lets through are not shown (--all).")
    lines.append("Open: " + ", ".join(f"{head} {n}" for head, n in zip(heads, found.counts().values(), strict=True)))
    lines.append("-NAME: without that layer.  ?: not tried where nothing would stop it.")
    good = f"every thread of a jail has both filters, no_new_privs, no capability ({len(found.threads)} threads seen)"
    lines.append("\n".join(found.unguarded) or good[0].upper() + good[1:] + ".")
    if found.open:
        told = [f"  {name}: {found.answers['full'][name].text}" for name in found.open]
        lines += [
            click.style(f"OPEN IN THE FULL JAIL: {len(found.open)}", fg="red", bold=True),
            *map(output.plain, told),
        ]
    else:
        lines.append(f"Full jail (tier {found.tier}): {len(found.rows)} probes, none open.")
    return "\n".join(lines)


def _read(name_or_path: str) -> PolicyFile:
    """A shipped policy by its name, or a file.  Raises ConfigError, LocalError."""
    from edgeswarm.assets import asset
    from edgeswarm.drivers.jail_policy_file import read_policy_file

    shipped = {path.stem: path for path in sorted((asset("sandbox") / "policies").glob("*.toml"))}
    if name_or_path not in shipped and not name_or_path.endswith(".toml"):
        raise LocalError(f"policy {name_or_path}: expected one of {', '.join(shipped)}, or a file NAME.toml")
    return read_policy_file(shipped.get(name_or_path, Path(name_or_path)))


@click.command()
@output.json_option
@click.option(
    "--check", "file", type=click.Path(path_type=Path, dir_okay=False), help="Check a policy file of your own."
)
def policies(as_json: bool, file: Path | None) -> int:
    """List the sandbox policies, or check one of your own: its form, that filters can be made of it here, and in what
    it is weaker than strict.

    Your own policies belong in the folder sandbox.d of the state directory; filters are made of them where they are
    used, which needs pyseccomp and libseccomp.

    \b
    Examples:
      edgeswarm sandbox policies
      edgeswarm sandbox policies --check mine.toml
    """
    from edgeswarm.assets import asset
    from edgeswarm.drivers.jail_policy import load_own_policy, load_policies
    from edgeswarm.drivers.jail_policy_file import read_policy_file
    from edgeswarm.drivers.jail_policy_weaker import weaker

    if file is not None:
        made = load_own_policy(file)
        sizes = [len(item.program) // 8 for item in (made.stage_1, made.stage_2)]
        lost = weaker(_read(str(file)), _read("strict"))
        tree = {"name": made.name, "tier_min": made.tier_min, "instructions": sizes, "weaker_than_strict": lost}
        lines = [f"{file}: policy {made.name}, filters of {sizes[0]} and {sizes[1]} instructions."]
        lines += ["Weaker than strict:", *(f"  {line}" for line in lost)] if lost else ["As strong as strict."]
        output.emit(tree, as_json=as_json, text=lambda: "\n".join(lines))
        return 0
    names = sorted(load_policies(asset("sandbox")))
    files = [read_policy_file(asset("sandbox", f"policies/{name}.toml")) for name in names]
    rows = [
        (item.name, item.tier_min, *(len(s.allow) + len(s.allow_without_exec) for s in (item.stage_1, item.stage_2)),
         item.description)
        for item in files
    ]  # fmt: skip
    keys = ("name", "tier_min", "calls_loading", "calls_serving", "description")
    output.emit(
        [dict(zip(keys, row, strict=True)) for row in rows],
        as_json=as_json,
        text=lambda: output.table(("POLICY", "TIER", "LOADING", "SERVING", "WHAT FOR"), rows, right=(2, 3)),
    )
    return 0


def _narrowed(only: Only) -> str:
    return f"argument {only.argument}: {', '.join(f'{value:#x}' for value in only.values)}; {only.reason}"


@click.command()
@output.json_option
@click.argument("policy")
@click.option("--stage", type=click.IntRange(1, 2), default=2, show_default=True, help="1: while loading, 2: serving.")
def explain(as_json: bool, policy: str, stage: int) -> int:
    """Show what a policy allows, and why, call by call. POLICY is a name or a file.

    \b
    Examples:
      edgeswarm sandbox explain strict
      edgeswarm sandbox explain gpu --stage 1
    """
    from edgeswarm.drivers.jail_policy_file import ARCHES

    item = _read(policy)
    chosen = item.stage_1 if stage == 1 else item.stage_2
    rows = [(name, "allowed", rule.reason, rule.arch) for name, rule in chosen.allow.items()]
    rows += [(name, "not executable", rule.reason, rule.arch) for name, rule in chosen.allow_without_exec.items()]
    rows += [(name, "else EPERM", _narrowed(only), ARCHES) for name, only in chosen.only.items()]
    rows += [(name, rule.errno, rule.reason, rule.arch) for name, rule in chosen.refuse.items()]
    output.emit(
        [dict(zip(("call", "answer", "reason", "arch"), row, strict=True)) for row in rows],
        as_json=as_json,
        text=lambda: "\n".join(
            [
                f"{item.name}: {item.description}",
                f"Least tier: {item.tier_min}.  Whatever is not listed ends the jail (SIGSYS).",
                "",
                output.table(
                    ("CALL", "ANSWER", "WHY"),
                    [(n, a, r if len(arch) == 2 else f"{r} ({arch[0]} only)") for n, a, r, arch in rows],
                ),
            ]
        ),
    )
    return 0
