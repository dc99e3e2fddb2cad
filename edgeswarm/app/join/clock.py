"""What time it is at least.  A board without a battery wakes in 1970; a certificate would then not have begun.

The floor is the latest time that is known to have passed: when this program was written, or what an issuer said last
(DIR/clock).  A clock below its floor is wrong, so dates are not judged by it: while joining the token's pin stands in
for them, afterwards the floor does (it proves that something has ended, never that something has not begun).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edgeswarm.drivers.files import write_whole
from edgeswarm.wire.certificate import SECONDS_MAX, CertificateError

BUILT_S: Final = 1_795_219_200  # 2026-11-21, raised with each release
FILE: Final = "clock"

wall: Callable[[], float] = time.time
"""This machine's clock; tests set another."""


def floor(state_dir: Path) -> int:
    """Seconds since 1970 that have surely passed."""
    try:
        kept = int((state_dir / FILE).read_bytes()[:20])
    except (OSError, ValueError):
        kept = 0
    return max(BUILT_S, kept if kept <= SECONDS_MAX else 0)


def keep(state_dir: Path, at_s: int) -> None:
    """Remember that `at_s` has passed.  Raises OSError."""
    if at_s > floor(state_dir):
        write_whole(state_dir / FILE, f"{at_s}\n".encode(), mode=0o644)


def now(state_dir: Path) -> int | None:
    """Seconds since 1970, or None where this machine's clock cannot be right."""
    at_s = int(wall())
    return at_s if at_s >= floor(state_dir) else None


def check_ended(der: bytes, floor_s: int) -> None:
    """Raises CertificateError where the certificate had ended before the floor: all that can be known of its dates."""
    from cryptography import x509

    try:
        end = int(x509.load_der_x509_certificate(der).not_valid_after_utc.timestamp())
    except ValueError as error:
        raise CertificateError(f"the broker's certificate does not read: {error}") from None
    if end < floor_s:
        raise CertificateError(f"the broker's certificate ended at {end}, and it is {floor_s} at least")
