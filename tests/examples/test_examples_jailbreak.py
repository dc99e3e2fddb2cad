"""docs/examples/jailbreak: every attack of the malicious agent fails, and the well-behaved one does not notice."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.e2e


def test_every_attack_fails_and_the_neighbour_stays_right(jailbreak: ModuleType, tmp_path: Path) -> None:
    made = list(jailbreak.attacks(tmp_path / "cache"))
    assert len(made) >= len(jailbreak.BY_WASM) + len(jailbreak.BY_NATIVE_CODE) - 1
    assert [attack for attack in made if not attack.failed or not attack.unharmed] == []
    outcomes = {attack.what: attack.outcome for attack in made}
    assert outcomes["read past its memory"] == "memory access out of bounds"
    assert outcomes["never come back"] == "the kernel ran past its deadline"
    assert outcomes["open a connection"] == "SIGSYS"
    assert "broke the protocol" in outcomes["answer what nobody asked"]
