"""The stream of an agent on another device: rows in batches, rows that expire, rows that say they are late.

One message holds consecutive rows of one agent, as deterministic CBOR:
    [1, life, epoch, seq, sent_ms, expire_ms, width, ages, values]
life: grows with every publisher of the agent in one boot.  epoch: of the agent's placement, 0 where nobody placed it.
seq: number of the first row in this life, from 0.  sent_ms: wall clock of the sender.  expire_ms: how old a row may be.
ages: for each row, how old it was at sent_ms, in ms.  values: float32, little-endian, row-major.
Sender and boot come with the envelope that carries the message, which also says who signed it.
Decides what of a message is delivered; leaves topics, envelopes and timers to the app.

Rules of a subscriber:  a row is delivered at most once, by (device, boot, life, seq).  Rows that are missing are
counted as a gap.  A row older than its expiry is dropped, one that is later than `late_ms` is delivered and says so.
From `any` device, the one with the highest epoch is followed; at the same epoch the one that spoke first, until it has
been silent for `silence_ms`.  A device's lower boot, life or epoch is an echo of the past, and dropped.
Lateness is measured by the sender's clock where that is within REMOTE_CLOCK_TRUST_MS of ours, else by the quickest
message of its last minute or two: a clock that is hours off makes nothing late.
Invariant: rows == delivered + duplicates + expired + foreign + stale, and malformed messages deliver nothing.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final, NamedTuple

from edgeswarm.errors import CodecError, LimitError
from edgeswarm.limits import (
    REMOTE_AGE_MS_MAX,
    REMOTE_BATCH_BYTES_MAX,
    REMOTE_BATCH_MS_DEFAULT,
    REMOTE_BATCH_ROWS_DEFAULT,
    REMOTE_BATCH_ROWS_MAX,
    REMOTE_CLOCK_TRUST_MS,
    REMOTE_CLOCK_WINDOW_MS,
    REMOTE_EXPIRE_MS_DEFAULT,
    REMOTE_LATE_MS_DEFAULT,
    REMOTE_SENDERS_MAX,
    REMOTE_SILENCE_MS_DEFAULT,
    SOURCE_WIDTH_MAX,
)
from edgeswarm.stream.queue import Row, row_fault
from edgeswarm.wire.codec import dumps, loads

VERSION: Final = 1
ANY: Final = "any"
_HEAD_BYTES: Final = 64  # of a message, less ages and values
_ROW_HEAD_BYTES: Final = 9  # of one age at most


class Batch(NamedTuple):
    """One message."""

    life: int
    epoch: int
    seq: int
    sent_ms: int
    expire_ms: int
    width: int
    ages_ms: tuple[int, ...]
    rows: tuple[Row, ...]


class RemoteRow(NamedTuple):
    """One row of another device.  age_ms: since it was made, as far as we can tell.  late_ms: its age where
    that is past the subscriber's `late_ms`, else 0."""

    values: Row
    device: str
    age_ms: int
    late_ms: int


def encode(batch: Batch) -> bytes:
    """Raises LimitError for a batch past the bounds that `decode` keeps."""
    if not 1 <= len(batch.rows) <= REMOTE_BATCH_ROWS_MAX or len(batch.ages_ms) != len(batch.rows):
        raise LimitError(f"stream batch: expected 1 to {REMOTE_BATCH_ROWS_MAX} rows, found {len(batch.rows)}")
    values = b"".join(struct.pack(f"<{batch.width}f", *row) for row in batch.rows)
    head = (VERSION, batch.life, batch.epoch, batch.seq, batch.sent_ms, batch.expire_ms, batch.width)
    data = dumps([*head, list(batch.ages_ms), values])
    if len(data) > REMOTE_BATCH_BYTES_MAX:
        raise LimitError(f"stream batch: expected at most {REMOTE_BATCH_BYTES_MAX} bytes, found {len(data)}")
    return data


def decode(data: bytes, *, who: str = "") -> Batch:
    """Raises CodecError, or LimitError for what is too large.  Items after the ninth are a later version's."""
    item = loads(data, who=who, bytes_max=REMOTE_BATCH_BYTES_MAX)
    if not isinstance(item, list) or len(item) < 9 or item[0] not in (VERSION, VERSION + 1):
        raise CodecError(f"expected a stream batch of version {VERSION}", who=who)
    numbers, ages, values = item[1:7], item[7], item[8]
    if any(type(number) is not int or number < 0 for number in numbers):
        raise CodecError("stream batch: expected whole numbers from 0 in its head", who=who)
    life, epoch, seq, sent_ms, expire_ms, width = (int(number) for number in numbers)  # type: ignore[arg-type]
    if not 1 <= width <= SOURCE_WIDTH_MAX or not 1 <= expire_ms <= REMOTE_AGE_MS_MAX:
        raise CodecError(f"stream batch: width {width} or expire_ms {expire_ms} out of range", who=who)
    if not isinstance(ages, list) or not 1 <= len(ages) <= REMOTE_BATCH_ROWS_MAX:
        raise CodecError(f"stream batch: expected 1 to {REMOTE_BATCH_ROWS_MAX} rows", who=who)
    ages_ms = tuple(age for age in ages if type(age) is int and 0 <= age <= REMOTE_AGE_MS_MAX)
    if len(ages_ms) != len(ages):
        raise CodecError(f"stream batch: expected ages of 0 to {REMOTE_AGE_MS_MAX} ms", who=who)
    if not isinstance(values, bytes) or len(values) != 4 * width * len(ages):
        raise CodecError(f"stream batch: expected {len(ages)} rows of {width} float32", who=who)
    flat = array("f", values) if _LITTLE else array("f", struct.unpack(f"<{len(values) // 4}f", values))
    if not math.isfinite(sum(map(abs, flat))):
        raise CodecError("stream batch: expected finite values", who=who)
    rows = tuple(tuple(flat[start : start + width]) for start in range(0, len(flat), width))
    return Batch(life, epoch, seq, sent_ms, expire_ms, width, ages_ms, rows)


_LITTLE: Final = struct.pack("=H", 1) == b"\x01\x00"


class Publisher:
    """Rows of one agent, put into messages.

    A message is due when it holds `rows` rows, or when its oldest waited for `batch_ms`: `add` returns the first kind,
    and `flush` the second, at `due_ms`.  All times are the wall clock in ms.
    """

    def __init__(
        self,
        agent: str,
        *,
        width: int,
        life: int,
        epoch: int = 0,
        rows: int = REMOTE_BATCH_ROWS_DEFAULT,
        batch_ms: int = REMOTE_BATCH_MS_DEFAULT,
        expire_ms: int = REMOTE_EXPIRE_MS_DEFAULT,
    ) -> None:
        """life: above that of every earlier publisher of this agent in this boot, e.g. the wall clock in ms.
        Raises LimitError for a width or times out of range."""
        if not 1 <= width <= SOURCE_WIDTH_MAX:
            raise LimitError(f"stream {agent}: width: expected 1 to {SOURCE_WIDTH_MAX}, found {width}")
        if not 1 <= expire_ms <= REMOTE_AGE_MS_MAX or batch_ms < 0:
            raise LimitError(f"stream {agent}: expire_ms: expected 1 to {REMOTE_AGE_MS_MAX}, found {expire_ms}")
        self.agent: Final = agent
        self.width: Final = width
        self.life: Final = life
        self.epoch = epoch
        self.expire_ms: Final = expire_ms
        room = (REMOTE_BATCH_BYTES_MAX - _HEAD_BYTES) // (4 * width + _ROW_HEAD_BYTES)
        self.rows_max: Final = max(1, min(rows, REMOTE_BATCH_ROWS_MAX, room))
        self._batch_ms = batch_ms
        self._waiting: list[tuple[Row, int]] = []  # row, when it was made
        self._since_ms = 0
        self._seq = 0
        self.rows = 0
        self.messages = 0
        self.malformed = 0

    def add(self, row: Sequence[float], now_ms: int, *, age_ms: int = 0) -> bytes | None:
        """Take a row in that was made age_ms ago; returns the message that it completes.

        A row of the wrong width, or with values that are not finite, is counted as malformed and left out."""
        if row_fault(row, self.width):
            self.malformed += 1
            return None
        if not self._waiting:
            self._since_ms = now_ms
        self._waiting.append((tuple(row), now_ms - max(0, age_ms)))
        self.rows += 1
        return self.flush(now_ms) if len(self._waiting) >= self.rows_max else None

    @property
    def due_ms(self) -> int | None:
        """When `flush` must be called; None while nothing waits."""
        return self._since_ms + self._batch_ms if self._waiting else None

    def flush(self, now_ms: int) -> bytes | None:
        """The message with all that waits, due or not; None when nothing does."""
        if not self._waiting:
            return None
        waiting, self._waiting = self._waiting, []
        ages = tuple(min(REMOTE_AGE_MS_MAX, max(0, now_ms - made_ms)) for _, made_ms in waiting)
        rows = tuple(row for row, _ in waiting)
        batch = Batch(self.life, self.epoch, self._seq, max(0, now_ms), self.expire_ms, self.width, ages, rows)
        self._seq += len(rows)
        self.messages += 1
        return encode(batch)

    def counts(self) -> dict[str, int]:
        """rows taken in, waiting, malformed; messages made."""
        return {
            "rows": self.rows,
            "waiting": len(self._waiting),
            "malformed": self.malformed,
            "messages": self.messages,
        }


@dataclass(slots=True)
class RemoteCounts:
    """Rows since the start, where no other unit is named.

    duplicates: seen before.  expired: too old.  foreign: of a device that is not followed.  stale: of a lower epoch,
    boot or life.  missing: numbers that never came, in `gaps` gaps.  late: delivered, and late.
    messages, malformed: messages taken, and those that are none.  switches: times the device changed.
    """

    messages: int = 0
    malformed: int = 0
    rows: int = 0
    delivered: int = 0
    late: int = 0
    expired: int = 0
    duplicates: int = 0
    foreign: int = 0
    stale: int = 0
    gaps: int = 0
    missing: int = 0
    switches: int = 0

    def as_dict(self) -> dict[str, int]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


class _Sender:
    """What is remembered of one device: its life, the next row, and how far its clock is off."""

    __slots__ = ("_least_before_ms", "_least_ms", "_window_since_ms", "life", "seq_next")

    def __init__(self) -> None:
        self.life = (-1, -1)  # boot, life
        self.seq_next = 0
        self._least_ms: int | None = None  # least (our clock - its clock) of this window
        self._least_before_ms: int | None = None  # of the window before
        self._window_since_ms = 0

    def transit_ms(self, difference_ms: int, now_ms: int) -> int:
        """How long a message took, from our clock less its clock when it came.

        The least difference of one to two windows is what a message that nothing held up shows."""
        if not 0 <= now_ms - self._window_since_ms < REMOTE_CLOCK_WINDOW_MS:
            self._least_before_ms, self._least_ms = self._least_ms, None
            self._window_since_ms = now_ms
        self._least_ms = difference_ms if self._least_ms is None else min(self._least_ms, difference_ms)
        least = self._least_ms if self._least_before_ms is None else min(self._least_ms, self._least_before_ms)
        return max(0, difference_ms - (min(0, least) if abs(least) <= REMOTE_CLOCK_TRUST_MS else least))


class Subscriber:
    """Rows of one agent of another device, or of whatever device runs it."""

    def __init__(
        self,
        agent: str,
        device: str,
        *,
        width: int,
        late_ms: int = REMOTE_LATE_MS_DEFAULT,
        expire_ms: int = REMOTE_EXPIRE_MS_DEFAULT,
        silence_ms: int = REMOTE_SILENCE_MS_DEFAULT,
    ) -> None:
        """device: a device's id, or "any".  expire_ms: stricter than the sender's where it is less."""
        self.agent: Final = agent
        self.wanted: Final = device
        self.width: Final = width
        self._late_ms = late_ms
        self._expire_ms = expire_ms
        self._silence_ms = silence_ms
        self._senders: OrderedDict[str, _Sender] = OrderedDict()  # the one heard last is last
        self.device: str | None = None if device == ANY else device  # whom it follows
        self._epoch = 0
        self._heard_ms = 0
        self.last_fault = ""
        self.counts = RemoteCounts()

    def receive(self, payload: bytes, *, sender: str, boot: int, now_ms: int) -> list[RemoteRow]:
        """The rows of one message that are to be delivered, in their order.  sender, boot: from its envelope.

        Never raises for what a peer sent: a message that is none is counted, and `last_fault` says why."""
        counts = self.counts
        counts.messages += 1
        try:
            batch = decode(payload, who=sender)
            if batch.width != self.width:
                raise CodecError(f"stream {self.agent}: rows of {self.width} values expected, found {batch.width}")
        except (CodecError, LimitError) as error:
            counts.malformed += 1
            self.last_fault = str(error)
            return []
        counts.rows += len(batch.rows)
        follows, is_past = self._follows(sender, batch.epoch, now_ms)
        known = self._senders.get(sender)
        if is_past or (known is not None and (boot, batch.life) < known.life):
            counts.stale += len(batch.rows)
            return []
        if not follows:
            counts.foreign += len(batch.rows)
            return []
        if sender != self.device or batch.epoch > self._epoch:
            self._switch(sender, batch.epoch)
        self._heard_ms = now_ms
        return self._deliver(self._sender(sender), batch, boot, now_ms)

    def follow(self, device: str, epoch: int, now_ms: int) -> None:
        """The agent is placed on `device` from now on (for `any`; a named device is followed whatever happens)."""
        if self.wanted == ANY and epoch >= self._epoch and (device, epoch) != (self.device, self._epoch):
            self._switch(device, epoch)
            self._heard_ms = now_ms

    def _follows(self, sender: str, epoch: int, now_ms: int) -> tuple[bool, bool]:
        """Whether rows of `sender` are wanted now, and whether they are of a placement that is over."""
        if self.wanted != ANY and sender != self.wanted:
            return False, False
        if epoch != self._epoch:
            return epoch > self._epoch, epoch < self._epoch
        silent = self.device is None or not 0 <= now_ms - self._heard_ms < self._silence_ms
        return sender == self.device or silent, False

    def _switch(self, device: str, epoch: int) -> None:
        if self.device not in (None, device):
            self.counts.switches += 1
        self.device, self._epoch = device, epoch

    def _sender(self, device: str) -> _Sender:
        sender = self._senders.setdefault(device, _Sender())
        self._senders.move_to_end(device)
        if len(self._senders) > REMOTE_SENDERS_MAX:
            self._senders.popitem(last=False)
        return sender

    def _deliver(self, sender: _Sender, batch: Batch, boot: int, now_ms: int) -> list[RemoteRow]:
        counts = self.counts
        if (boot, batch.life) != sender.life:  # another life: nobody knows what was sent before its first message
            sender.life, sender.seq_next = (boot, batch.life), batch.seq
        if batch.seq > sender.seq_next:
            counts.gaps += 1
            counts.missing += batch.seq - sender.seq_next
        seen = min(len(batch.rows), max(0, sender.seq_next - batch.seq))
        counts.duplicates += seen
        sender.seq_next = max(sender.seq_next, batch.seq + len(batch.rows))
        transit_ms = sender.transit_ms(now_ms - batch.sent_ms, now_ms)
        expire_ms = min(batch.expire_ms, self._expire_ms)
        rows = []
        for values, age_ms in zip(batch.rows[seen:], batch.ages_ms[seen:], strict=True):
            age_ms += transit_ms
            if age_ms > expire_ms:
                counts.expired += 1
                continue
            late_ms = age_ms if age_ms > self._late_ms else 0
            counts.late += late_ms > 0
            rows.append(RemoteRow(values, self.device or "", age_ms, late_ms))
        counts.delivered += len(rows)
        return rows
