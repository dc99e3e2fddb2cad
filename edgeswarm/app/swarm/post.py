"""The post of a device: the one place that seals what leaves and opens what comes.

In:  topic -> bound -> envelope -> key of the roster -> replay window -> handler.  What fails on the way is counted by
reason, logged at most once per sender and reason in REFUSED_LOG_S, and goes no further.
Messages that prove themselves (roster, leader certificate, stop) and last wills come to their handlers as raw bytes,
with an empty sender.
A message of our own id with a boot that we are not in, or ahead of our own count, means that somebody else runs with
our key: `on_clone`.  A message that several filters match is opened once, and every handler gets it.
"""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable
from typing import Final, NamedTuple

from edgeswarm.app.log import Log
from edgeswarm.drivers.mqtt.transport import Incoming, Priority, Transport
from edgeswarm.errors import CoseError, EdgeSwarmError, LimitError, UnknownSignerError
from edgeswarm.wire import cose, envelope
from edgeswarm.wire.replay import ReplayError, ReplayWindow
from edgeswarm.wire.topics import Kind, Signing, Topic, TopicError, Topics

REFUSED_LOG_S = 10.0
REFUSED_NAMES_MAX = 1_000  # (sender, reason) pairs remembered for the log
_LANES: Final = {kind: lane for lane, kind in enumerate(Kind)}


class Letter(NamedTuple):
    """What came.  sender: a device of the roster whose signature holds; empty for what proves itself."""

    topic: Topic
    sender: str
    boot: int
    seq: int
    payload: bytes
    retained: bool


Handler = Callable[[Letter], None]


class Post:
    """lookup: device id -> its public key now, or None.  cipher: where the cell encrypts its contents.

    check: whether a signature holds for that key; RosterBook.check takes the key before it too, for a while.
    """

    def __init__(
        self,
        transport: Transport,
        topics: Topics,
        *,
        device: str,
        boot: int,
        seed: bytes,
        lookup: Callable[[str], bytes | None],
        log: Log,
        cipher: envelope.Cipher | None = None,
        check: cose.Verify = cose.check,
    ) -> None:
        self.transport, self.topics, self.device, self.boot = transport, topics, device, boot
        self.sign = self.seal_sign = cose.signer(seed)
        """What votes and statements are signed with, and what envelopes are: they differ while the key changes."""
        self._check = check
        self.lookup = lookup
        self.replay = ReplayWindow()
        self.refused: Counter[str] = Counter()
        self.on_clone: Callable[[int], None] = lambda boot: None
        self.allowed: Callable[[str, Topic], None] = lambda sender, topic: None
        """Raises where nothing that this sender says on this topic is to be heard."""
        self._cipher = cipher
        self._log = log
        self._seq = 0
        self._logged: dict[tuple[str, str], float] = {}
        self._last: tuple[Incoming, Letter | None] | None = None
        self._parse = functools.lru_cache(maxsize=4_096)(topics.parse)

    @property
    def seq(self) -> int:
        """Of the last message that was sealed."""
        return self._seq

    # --- out ----------------------------------------------------------------------------------------------------------

    def seal(self, topic: str, payload: bytes) -> bytes:
        self._seq += 1
        return envelope.seal(
            payload,
            topic=topic,
            sender=self.device,
            boot=self.boot,
            seq=self._seq,
            sign=self.seal_sign,
            cipher=self._cipher,
        )

    def send(
        self,
        topic: str,
        payload: bytes,
        *,
        priority: Priority,
        qos: int = 0,
        retain: bool = False,
        expiry_s: int | None = None,
        bulk: bool = False,
    ) -> None:
        """Seal and hand to the transport.  Never blocks; what its queues cannot hold is dropped there, counted."""
        data = self.seal(topic, payload)
        self.transport.publish(topic, data, priority=priority, qos=qos, retain=retain, expiry_s=expiry_s, bulk=bulk)

    def send_raw(self, topic: str, data: bytes, *, priority: Priority, qos: int = 1, retain: bool = True) -> None:
        """For what proves itself."""
        self.transport.publish(topic, data, priority=priority, qos=qos, retain=retain)

    # --- in -----------------------------------------------------------------------------------------------------------

    def on(
        self, topic_filter: str, handler: Handler, *, qos: int = 0, bulk: bool = False, again: bool = False
    ) -> Callable[[], None]:
        """Subscribe.  The handler runs on the loop; what it raises of ours is a refusal of the message.

        again: as Transport.subscribe.

        The answer takes this handler away again, and no other of the same filter.
        """
        taker = functools.partial(self._incoming, handler)
        self.transport.subscribe(topic_filter, taker, qos=qos, bulk=bulk, again=again)
        return lambda: self.transport.unsubscribe(topic_filter, taker, bulk=bulk)

    def _incoming(self, handler: Handler, message: Incoming) -> None:
        sender = ""
        try:
            if self._last is not None and self._last[0] is message:  # another handler of the same message
                letter = self._last[1]
            elif self._again(message):
                return
            else:
                self._last = (message, None)  # unless it opens, it was refused: once
                letter = self._open(message)
                self._last = (message, letter)
            if letter is not None:
                sender = letter.sender
                handler(letter)
        except EdgeSwarmError as error:
            self.refuse(error, sender=sender or getattr(error, "who", ""), topic=message.topic)

    def _again(self, message: Incoming) -> bool:
        """A broker may deliver a message once for each filter that matches (MQTT 5, 3.3.4): all handlers had it."""
        if self._last is None or self._last[1] is None or not self._last[1].sender:
            return False
        before = self._last[0]
        return before.payload == message.payload and before.topic == message.topic

    def _open(self, message: Incoming) -> Letter | None:
        """None: it is of this device itself, or of somebody with its key.  Raises what refuses it."""
        topic = self._parse(message.topic)
        rule = topic.rule
        if rule.signing is not Signing.ENVELOPE:
            if len(message.payload) > rule.bytes_max:
                raise LimitError(f"{message.topic}: at most {rule.bytes_max} bytes, found {len(message.payload)}")
            return Letter(topic, "", 0, 0, message.payload, message.retain)
        opened = envelope.open_(
            message.payload,
            topic=message.topic,
            lookup=self.lookup,
            verify=self._check,
            bytes_max=rule.bytes_max,
            cipher=self._cipher,
        )
        if opened.sender == self.device:
            if (opened.boot, opened.seq) > (self.boot, self._seq):
                self.on_clone(opened.boot)
            return None
        self.allowed(opened.sender, topic)
        if rule.register:
            self.replay.admit_register(opened.sender, opened.boot, opened.seq, lane=_LANES[topic.kind])
        else:
            self.replay.admit(opened.sender, opened.boot, opened.seq, lane=_LANES[topic.kind])
        return Letter(topic, opened.sender, opened.boot, opened.seq, opened.payload, message.retain)

    def refuse(self, error: EdgeSwarmError, *, sender: str, topic: str) -> None:
        """Count a message that goes no further, and say so now and then."""
        reason = _reason(error)
        self.refused[reason] += 1
        now = time.monotonic()
        key = (sender[:64], reason)
        if now - self._logged.get(key, -REFUSED_LOG_S) < REFUSED_LOG_S:
            return
        if len(self._logged) >= REFUSED_NAMES_MAX:
            self._logged.clear()
        self._logged[key] = now
        self._log.warning(
            "message_refused", sender=sender[:64], reason=reason, topic=topic[:200], error=str(error)[:300]
        )


def _reason(error: EdgeSwarmError) -> str:
    """One word a kind of fault, for counters."""
    match error:
        case UnknownSignerError():
            return "unknown_sender"
        case CoseError():
            return "signature"
        case ReplayError():
            return "replay"
        case TopicError():
            return "topic"
        case LimitError():
            return "too_large"
        case _:
            return "content"
