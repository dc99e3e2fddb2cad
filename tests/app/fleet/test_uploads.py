"""Agent files that operators bring in pieces: what is taken, and what must not fill a controller's disk."""

from __future__ import annotations

import hashlib
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgeswarm.app.fleet import uploads as module
from edgeswarm.app.fleet.uploads import Uploads
from edgeswarm.errors import EdgeSwarmError, LimitError, LocalError, RemoteError
from edgeswarm.limits import AF_FILE_BYTES_MAX, ROLLOUT_PIECE_BYTES, ROLLOUT_UPLOADS_MAX

DATA = random.Random(4).randbytes(2 * ROLLOUT_PIECE_BYTES + 100)
DIGEST = hashlib.sha256(DATA).digest()


def test_pieces_become_the_file(tmp_path: Path) -> None:
    taken, offset, found = Uploads(tmp_path / "u"), 0, None
    while not isinstance(found, Path):
        found = taken.piece(DIGEST, len(DATA), offset, DATA[offset : offset + ROLLOUT_PIECE_BYTES], "op")
        offset = found if isinstance(found, int) else offset
    assert found.read_bytes() == DATA
    taken.drop(DIGEST)
    assert not found.exists()


def test_piece_that_comes_twice_or_too_early_says_where_to_go_on(tmp_path: Path) -> None:
    taken = Uploads(tmp_path / "u")
    assert taken.piece(DIGEST, len(DATA), 0, DATA[:100], "op") == 100
    assert taken.piece(DIGEST, len(DATA), 0, DATA[:100], "op") == 100
    assert taken.piece(DIGEST, len(DATA), 500, DATA[500:600], "op") == 100


def test_file_that_is_not_what_its_hash_says_is_dropped(tmp_path: Path) -> None:
    taken = Uploads(tmp_path / "u")
    with pytest.raises(RemoteError, match="expected SHA-256"):
        taken.piece(DIGEST, 5, 0, b"wrong", "op")
    assert list((tmp_path / "u").iterdir()) == []


@pytest.mark.parametrize(
    ("digest", "size", "data"),
    [
        (b"short", 10, b"x"),
        (DIGEST, 0, b"x"),
        (DIGEST, AF_FILE_BYTES_MAX + 1, b"x"),
        (DIGEST, 10, b""),
        (DIGEST, 10, b"x" * 11),
        (DIGEST, 10 * ROLLOUT_PIECE_BYTES, b"x" * (ROLLOUT_PIECE_BYTES + 1)),
    ],
)
def test_piece_out_of_its_bounds_is_refused(tmp_path: Path, digest: bytes, size: int, data: bytes) -> None:
    with pytest.raises(EdgeSwarmError):
        Uploads(tmp_path / "u").piece(digest, size, 0, data, "op")


def test_uploads_that_nobody_ends_are_dropped_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = Uploads(tmp_path / "u")
    for number in range(ROLLOUT_UPLOADS_MAX):
        taken.piece(hashlib.sha256(bytes([number])).digest(), 100, 0, b"x", "op")
    with pytest.raises(LimitError, match="at one time"):
        taken.piece(DIGEST, len(DATA), 0, DATA[:10], "op")
    monkeypatch.setattr(module, "ROLLOUT_UPLOAD_S", -1.0)
    assert taken.piece(DIGEST, len(DATA), 0, DATA[:10], "op") == 10
    assert len(list((tmp_path / "u").iterdir())) == 1


def test_disk_that_refuses_is_said(tmp_path: Path) -> None:
    (tmp_path / "u").write_text("a file where the folder should be")
    with pytest.raises(LocalError, match="upload"):
        Uploads(tmp_path / "u").piece(DIGEST, len(DATA), 0, DATA[:10], "op")


def test_two_operators_who_bring_the_same_file_at_once_do_not_mix_it(tmp_path: Path) -> None:
    """Their pieces come in threads; each is written once."""
    taken = Uploads(tmp_path / "u")
    taken.piece(DIGEST, len(DATA), 0, DATA[:100], "op")
    inner = taken._uploads[DIGEST].hash

    class Slow:
        def update(self, data: bytes) -> None:
            time.sleep(0.05)  # the other one comes in the middle
            inner.update(data)

        def digest(self) -> bytes:
            return inner.digest()

        def hexdigest(self) -> str:
            return inner.hexdigest()

    taken._uploads[DIGEST].hash = Slow()
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(taken.piece, DIGEST, len(DATA), 100, DATA[100:200], who) for who in ("a", "b")]
        assert [one.result() for one in found] == [200, 200]
    assert (tmp_path / "u" / DIGEST.hex()).read_bytes() == DATA[:200]
