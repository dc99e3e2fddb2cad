#!/usr/bin/python3 -IS
"""The launcher of an EdgeSwarm bundle, PREFIX/bin/edgeswarm: runs the version that PREFIX/current names.

It belongs to no version and needs the standard library only.  While a new version is on trial (PREFIX/var/trial:
"<new> <old> <attempts>") it counts the starts of the daemon, and after STARTS_MAX of them, none of which became
healthy, it runs the old version; whoever may write PREFIX (root) then turns the link back.
edgeswarm/drivers/service/prefix.py says the same of the same files, for the program itself.
"""

import json
import os
import re
import sys

STARTS_MAX = 3
VERSION = re.compile(r"[0-9][0-9A-Za-z.+_-]{0,63}")
TRIAL = re.compile(r"(\S{1,64}) (\S{1,64}) ([0-9])\n?")


def fail(text):
    sys.stderr.write(f"edgeswarm: {text}\n")
    sys.exit(2)


def link(prefix, name):
    """The version that a link names, or None."""
    try:
        target = os.readlink(os.path.join(prefix, name))
    except OSError:
        return None
    return target if VERSION.fullmatch(target) else None


def trial(prefix, flags):
    """(descriptor, new, old, attempts) of a trial under way, or None.  A file that makes no sense is no trial."""
    path = os.path.join(prefix, "var", "trial")
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    found = TRIAL.fullmatch(os.read(descriptor, 256).decode("ascii", "replace"))
    if found is not None:
        new, old, attempts = found.groups()
        if new != old and new == link(prefix, "current") and old == link(prefix, "previous"):
            return descriptor, new, old, int(attempts)
    os.close(descriptor)
    return None


def count(prefix):
    """One start more.  In place: a full disk must not keep it from being counted."""
    found = trial(prefix, os.O_RDWR)
    if found is None:
        return  # another user's; the daemon's own may
    descriptor, new, old, attempts = found
    os.pwrite(descriptor, b"%d" % min(9, attempts + 1), len(f"{new} {old} "))
    os.fsync(descriptor)
    os.close(descriptor)


def turn_back(prefix, old):
    """The link first: a power cut in between leaves a trial that no longer counts."""
    fresh = os.path.join(prefix, ".current.new")
    try:
        if os.path.islink(fresh):
            os.unlink(fresh)
        os.symlink(old, fresh)
        os.replace(fresh, os.path.join(prefix, "current"))
        path = os.path.join(prefix, "var", "trial")
        os.replace(path, path + ".lost")
    except OSError:
        pass  # not root: the next command of root's does it; until then every start takes this way


def choose(prefix, is_start):
    """The version to run."""
    version = link(prefix, "current")
    found = trial(prefix, os.O_RDONLY)
    if found is not None:
        descriptor, new, old, attempts = found
        os.close(descriptor)
        if attempts >= STARTS_MAX:
            sys.stderr.write(f"edgeswarm: {new} was started {attempts} times and never became healthy: {old} runs\n")
            turn_back(prefix, old)
            return old
        if is_start:
            count(prefix)
    if version is None:
        fail(f"{prefix}/current: expected a link to a version, found none; run a bundle's install.sh again")
    return version


def main():
    prefix = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    is_start = sys.argv[1:2] == ["run"] and "--check-handover" not in sys.argv  # that one looks, and starts nothing
    home = os.path.join(prefix, choose(prefix, is_start))
    try:
        with open(os.path.join(home, "bundle.json"), encoding="utf-8") as file:
            wanted = json.load(file)["unpacked_for"]
    except (OSError, ValueError, KeyError) as error:
        fail(f"{home}: not a version of a bundle ({error}); run a bundle's install.sh again")
    found = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if found != wanted:
        fail(f"{home} was unpacked for Python {wanted}, and this is {found} ({sys.executable}); run install.sh again")
    # who begins this process anew as it is means this version, and not what the link names by then
    sys.orig_argv[:] = [sys.executable, "-IS", os.path.join(home, "start.py"), *sys.argv[1:]]
    sys.path.insert(0, os.path.join(home, "lib"))
    from edgeswarm.__main__ import main as run

    run()


if __name__ == "__main__":
    main()
