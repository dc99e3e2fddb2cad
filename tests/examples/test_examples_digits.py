"""docs/examples/digits: it learns, it says how well, and the file it writes gives the same answers in a jail."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml

from edgeswarm import agentfile
from edgeswarm.app import builder
from edgeswarm.drivers import keys
from edgeswarm.model import Mlp


@pytest.fixture(scope="module")
def model(digits: ModuleType) -> Mlp:
    trained: Mlp = digits.train_digits(digits.split()[0])
    return trained


def test_held_out_images_are_fixed_and_none_is_trained_on(digits: ModuleType) -> None:
    training, held = digits.split()
    again = digits.split()[1]
    assert np.array_equal(held.pixels, again.pixels) and np.array_equal(held.digits, again.digits)
    assert (len(training.digits), len(held.digits)) == (1347, 450)
    seen = {row.tobytes() for row in training.pixels}
    assert not any(row.tobytes() in seen for row in held.pixels)


def test_training_twice_gives_the_same_weights(digits: ModuleType, model: Mlp) -> None:
    again = digits.train_digits(digits.split()[0])
    for first, second in zip(model.layers, again.layers, strict=True):
        assert np.array_equal(first.weights, second.weights) and np.array_equal(first.bias, second.bias)


@pytest.mark.e2e
def test_at_least_97_percent_of_the_held_out_digits_are_told_right_in_a_jail_too(
    digits: ModuleType, model: Mlp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "edgeswarm.app.config.default_dirs", lambda environ, *, is_root: (tmp_path / "none", tmp_path, tmp_path)
    )
    figures = digits.measure(model, digits.split()[1])
    assert figures["numpy reference"] >= 0.97
    assert figures.get("kernel in a jail", 1.0) >= 0.97


def test_its_agent_file_is_whole_signed_and_the_same_every_time(digits: ModuleType, model: Mlp, tmp_path: Path) -> None:
    header = yaml.safe_load((digits.HERE / "agent.yaml").read_text())
    key, _ = keys.load_or_make(tmp_path / "publisher.key")
    data = builder.build(header, model, key=key)
    assert data == builder.build(header, model, key=key)
    file = agentfile.read(data, who="digits.af")
    assert agentfile.verify(file, {key.id: key.public}) == key.id
    assert file.header.wiring.decision.labels == tuple("0123456789")
    assert set(file.sections) == {"neural_weights", "wasm_kernel", "golden"}
