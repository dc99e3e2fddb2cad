"""Agent files to read and to break."""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from edgeswarm import agentfile
from edgeswarm.agentfile import header as hd
from edgeswarm.agentfile import wiring as wr
from edgeswarm.ids import KeyId
from edgeswarm.wire import cose

CREATED = "2026-01-02T03:04:05Z"


@dataclass(frozen=True, slots=True)
class Publisher:
    """A key pair for tests."""

    seed: bytes

    @property
    def public(self) -> bytes:
        return cose.public_key(self.seed)

    @property
    def id(self) -> KeyId:
        return agentfile.key_id(self.public)

    @property
    def trusted(self) -> dict[KeyId, bytes]:
        return {self.id: self.public}


@pytest.fixture(scope="session")
def publisher() -> Publisher:
    return Publisher(hashlib.sha256(b"publisher of the tests").digest())


@pytest.fixture(scope="session")
def small_header() -> hd.Header:
    """The least that a header says: 2 inputs, 1 output."""
    return hd.Header(version="1.0", name="small", neural_config=hd.NeuralConfig(2, 1))


@pytest.fixture(scope="session")
def full_header() -> hd.Header:
    """Something in every key: 3 source values in windows of 2, 2 memory values, 3 answers."""
    wiring = wr.Wiring(
        sources=(
            wr.VitalsSource("vitals", ("cpu_percent", "memory_percent"), queue=wr.Queue("drop_oldest", 64)),
            wr.ExecSource("exec", ("/usr/bin/sensor", "--all"), ("t",), format="csv", id="sensor"),
        ),
        join="zip",
        window=wr.WindowSpec(2, 1),
        normalize=wr.NormalizeSpec("zscore", warmup_rows=20, clip=6.0, std_min=(0.5, 1.0, 1e-5)),
        emit="residual",
        score=wr.ScoreSpec("prediction_error"),
        decision=wr.DecisionSpec("hysteresis", ("calm", "alarm: é"), high=3.5, low=1.25, hold=3),
        sinks=(wr.JsonlSink("jsonl", "out.jsonl", keep=1), wr.SocketSink("socket", "feed", when="decision_changed")),
    )
    return hd.Header(
        version="1.0",
        name="full",
        neural_config=hd.NeuralConfig(8, 5, hidden_layers=(16, 8), activation_function="tanh"),
        description='two lines\nand "quotes" \\ \u2028 \U0001f600',
        author="no",
        agent_version="2.10.3",
        runtime=hd.RuntimeInfo("1.70.0", {"tokio": "1.0", "a b": "yes"}, ("neural",)),
        resources=hd.Resources(hd.ResourceLimits(memory_mb=128), hd.ResourceRequirements(16, 0.25)),
        workflows=hd.Workflows(shutdown=("save_state",)),
        wiring=wiring,
        capabilities=("exec_source", "file_sink"),
        memory=hd.MemorySpec(2, 5.0),
        isolation="own-jail",
        supervision=hd.SupervisionSpec("plant", "rest_for_one", backoff_ms=10.0),
        kernel=hd.KernelOptions(mode="deterministic", topology="ab" * 32),
        golden=hd.GoldenSpec(1e-4, 0.0),
    )


@pytest.fixture(scope="session")
def full_sections() -> dict[str, bytes]:
    return {
        "neural_weights": struct.pack("<256f", *(0.5 - (n * 37 % 101) / 101 for n in range(256))),
        "wasm_kernel": b"\0asm\1\0\0\0" + bytes(range(32)) * 12,
        "golden": struct.pack("<39f", *(n / 3 for n in range(39))),
        "training_data": b"row,row,row\n" * 90,
    }


@pytest.fixture(scope="session")
def full_file(full_header: hd.Header, full_sections: dict[str, bytes], publisher: Publisher) -> bytes:
    return agentfile.build(full_header, full_sections, publisher_key=publisher.seed, created=CREATED)


@pytest.fixture(scope="session")
def small_file(small_header: hd.Header) -> bytes:
    """Unsigned, one section of three weights."""
    header = replace(small_header, created=CREATED)
    return agentfile.build(header, {"neural_weights": struct.pack("<3f", 1.0, 2.0, 0.5)})


@pytest.fixture(scope="session")
def sample() -> bytes:
    """The specification's sample, which is data beside the repository."""
    folder = Path(os.environ.get("EDGESWARM_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
    path = folder / "af" / "specification-sample.af"
    if not path.is_file():
        pytest.skip(f"no {path}: set EDGESWARM_TEST_DATA to the folder of the test data")
    return path.read_bytes()
