"""The publisher's key of the commands that sign: which one, made on first use, and what the user is told of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeswarm.app.cli import common, output

if TYPE_CHECKING:
    from edgeswarm.app.cli.output import F
    from edgeswarm.drivers.keys import SigningKey


def key_option(function: F) -> F:
    """`--key FILE`: the parameter `key` (Path or None)."""
    return click.option(
        "--key",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Publisher's key; made if it is not there.  Default: DIR/keys/publisher.key, which is trusted here.",
    )(function)


def key_options(function: F) -> F:
    """`--key FILE` and `--unsigned`."""
    flag = click.option("--unsigned", is_flag=True, help="Do not sign: somebody else will, with `agent sign`.")
    return key_option(flag(function))


def check(key: Path | None, *, unsigned: bool) -> None:
    """Raises UsageError when both were given."""
    if unsigned and key is not None:
        raise click.UsageError("--key and --unsigned contradict each other")


def publisher(key: Path | None, state: Path | None, config_file: Path | None) -> SigningKey:
    """The key to sign with.

    The default one is made on first use and its publisher trusted on this device.  One that is named by --key is made
    too, with its public half beside it, but trusted by nobody yet.
    """
    from edgeswarm.drivers import keys

    if key is None:
        folder = common.settings_of(state, config_file).state_dir
        pair, made = keys.load_or_make(folder / "keys" / "publisher.key")
        if made:
            trusted = keys.trust(folder / "trust.d", pair.public, "made by this user on this device")
            output.note(f"made publisher key {folder / 'keys' / 'publisher.key'} ({pair.id}), trusted here: {trusted}")
        return pair
    pair, made = keys.load_or_make(key)
    if made:
        public = key.with_name(f"{key.name}.pub")
        common.write_file(public, keys.pub_line(pair.public, key.stem).encode())
        output.note(f"made publisher key {key} ({pair.id}); a device trusts it once {public} is in its DIR/trust.d")
    return pair
