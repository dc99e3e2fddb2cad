"""`edgeswarm doctor`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from edgeswarm.app.cli import output

if TYPE_CHECKING:
    from edgeswarm.drivers.doctor import Report, Wanted


@click.command()
@output.json_option
@click.option(
    "--explain", "explains", is_flag=True, help="For each missing layer: what it would add, and how to get it here."
)
def doctor(as_json: bool, explains: bool) -> int:
    """Try every isolation layer for real, in children, and say what this machine can do and what to do about the rest.

    Ends with 7 where no agent can run at all.

    \b
    Examples:
      edgeswarm doctor
      edgeswarm doctor --explain
      edgeswarm doctor --json | jq -r .tier
    """
    from edgeswarm.drivers import doctor as driver
    from edgeswarm.errors import TierError

    report = driver.examine(wanted=_wanted())
    word = _word(report)
    tree = {**asdict(report), "can_run": report.can_run, "degraded": report.degraded, **word}
    if explains:
        from edgeswarm.drivers.doctor import explain

        facts = driver.read_facts()
        missing = explain.explain(report, facts, explain.read_matrix(is_root=facts.is_root))
        tree["explain"] = [asdict(item) for item in missing]
        words = [f"tier {report.tier}: {report.tier_text}", _sentence(report, word), "", explain.text(missing)]
        output.emit(tree, as_json=as_json, text=lambda: "\n".join(words))
    else:
        output.emit(tree, as_json=as_json, text=lambda: f"{driver.text(report)}\n{_sentence(report, word)}")
    return 0 if report.can_run else TierError.exit_code


def _wanted() -> Wanted:
    """What this user's settings say of delegates; nothing where they are broken."""
    from edgeswarm.app import config
    from edgeswarm.drivers.doctor import Wanted
    from edgeswarm.errors import EdgeSwarmError

    try:
        said = config.load().profile.delegates
    except (EdgeSwarmError, OSError):
        return Wanted()
    return Wanted(said.packages, said.library, said.library_options, said.gpu_driver, said.npu_dispatch)


def _word(report: Report) -> dict[str, Any]:
    """The tier that this user's settings accept, and whether agents start here; None where the settings are broken."""
    from edgeswarm.app import config, isolation
    from edgeswarm.errors import EdgeSwarmError

    try:
        settings = config.load()
    except (EdgeSwarmError, OSError):
        return {"min_tier": None, "min_tier_from": None, "starts": None}
    least = settings.profile.jails.min_tier
    starts = report.can_run and report.tier <= least
    return {"min_tier": least, "min_tier_from": settings.origin.get(isolation.SETTING), "starts": starts}


def _sentence(report: Report, word: dict[str, Any]) -> str:
    if not report.can_run:
        return "Agents cannot run here: see what is missing above." if report.tier != "D" else "Nothing runs here."
    if word["starts"] is None:
        return "Whether agents start is not known: the settings are broken (edgeswarm config show)."
    said = f"min_tier is {word['min_tier']} ({word['min_tier_from']})"
    if word["starts"]:
        return f"Agents start here: {said}." + (" DEGRADED, as accepted." if report.degraded else "")
    return (
        f"Agents do not start here yet: {said}. Get the missing layers, or accept what there is: "
        f'min_tier = "{report.tier}" under [jails] in edgeswarm.toml (EDGESWARM_JAILS__MIN_TIER={report.tier}).'
    )
