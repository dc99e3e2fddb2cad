"""Sources and sinks that leave the device: MQTT, webhooks, and the streams of agents on other devices.

No credential stands in an agent file: it names files in `secrets/` of the device's state directory, which the device's
owner put there.  A name there cannot lead out of that folder, so that an agent file cannot have other files sent away.
Invariants: an address holds no user, password or fragment; a certificate and its key come together, and with TLS.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from edgeswarm.agentfile.wiring_parts import Fields, Id, Queue, QueueKey, When
from edgeswarm.ids import NAME_PATTERN
from edgeswarm.limits import (
    MQTT_TOPIC_CHARS_MAX,
    REMOTE_AGE_MS_MAX,
    REMOTE_BATCH_MS_DEFAULT,
    REMOTE_BATCH_MS_MAX,
    REMOTE_BATCH_ROWS_DEFAULT,
    REMOTE_BATCH_ROWS_MAX,
    REMOTE_EXPIRE_MS_DEFAULT,
    REMOTE_LATE_MS_DEFAULT,
    SINK_RECORDS_MAX,
    SOURCE_WIDTH_MAX,
    WEBHOOK_TRIES_MAX,
)
from edgeswarm.schema import Doc, Length, Pattern, Range

_HOST = r"([A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9a-fA-F:.]{2,45}\])(:[0-9]{1,5})?"
BrokerUrl = Annotated[
    str,
    Pattern(rf"(mqtts?|wss?)://{_HOST}(/[A-Za-z0-9._~/-]{{0,512}})?", "mqtt://, mqtts://, ws:// or wss://host[:port]"),
    Doc("the broker; no user name or password in it"),
]
WebUrl = Annotated[
    str,
    Pattern(rf"https?://{_HOST}(/[!-\"$-~]{{0,1024}})?", "https:// or http://host[:port][/path]"),
    Doc("where records are posted; no user name or password in it"),
]
Secret = Annotated[str, Pattern(r"([A-Za-z0-9_][A-Za-z0-9._-]{0,127})?", "a file's name below secrets/, or nothing")]
Topic = Annotated[str, Length(1, MQTT_TOPIC_CHARS_MAX)]
Payload = Literal["json", "cbor"]
Qos = Annotated[int, Range(0, 1)]
StreamAddress = Annotated[
    str,
    Pattern(
        rf"([a-z0-9][a-z0-9-]{{0,62}}/)?{NAME_PATTERN.pattern}",
        "an agent's name, or device/agent, or any/agent",
    ),
]
CaFile = Annotated[Secret, Doc("certificates that the broker's is checked with; absent: those of the system")]
CertFile = Annotated[Secret, Doc("our certificate (PEM); with `key_file`, mqtts and wss only")]
KeyFile = Annotated[Secret, Doc("its private key (PEM), mode 0600")]
Username = Annotated[str, Length(0, 256), Doc("user name at the broker; absent: none")]
PasswordFile = Annotated[Secret, Doc("its password, mode 0600")]


@dataclass(frozen=True, slots=True)
class AgentSource:
    """The stream of another agent, of this device or of another one: what its `emit` says."""

    type: Literal["agent"]
    agent: Annotated[
        StreamAddress, Doc("name of the other agent; of another device: `pi-7/name`, of whatever device: `any/name`")
    ]
    id: Id = ""
    width: Annotated[
        int, Range(0, SOURCE_WIDTH_MAX, "values"), Doc("values of one row; another device's agent needs it, ours not")
    ] = 0
    late_ms: Annotated[
        int, Range(1, REMOTE_AGE_MS_MAX, "ms"), Doc("other devices: rows older than this are counted as late")
    ] = REMOTE_LATE_MS_DEFAULT
    expire_ms: Annotated[
        int, Range(1, REMOTE_AGE_MS_MAX, "ms"), Doc("other devices: rows older than this are dropped, counted")
    ] = REMOTE_EXPIRE_MS_DEFAULT
    queue: QueueKey = field(default_factory=Queue)

    @property
    def device(self) -> str:
        """The other device, "any", or "" for this one."""
        return self.agent.rpartition("/")[0]

    @property
    def name(self) -> str:
        """The agent's name, wherever it is."""
        return self.agent.rpartition("/")[2]

    def faults(self) -> Iterator[tuple[str, str]]:
        if self.device and not self.width:
            yield "width", f"missing; the agent {self.agent} is of another device"
        if not self.device and self.width:
            yield "width", f"not used: the file of the agent {self.agent} says it"


@dataclass(frozen=True, slots=True)
class PublishSpec:
    """How the agent's own stream travels to other devices that read it."""

    rows: Annotated[int, Range(1, REMOTE_BATCH_ROWS_MAX, "rows"), Doc("rows of one message at most")] = (
        REMOTE_BATCH_ROWS_DEFAULT
    )
    batch_ms: Annotated[
        int, Range(0, REMOTE_BATCH_MS_MAX, "ms"), Doc("a row waits so long for others at most; 0: none waits")
    ] = REMOTE_BATCH_MS_DEFAULT
    expire_ms: Annotated[
        int, Range(1, REMOTE_AGE_MS_MAX, "ms"), Doc("a row older than this is of no use to anybody")
    ] = REMOTE_EXPIRE_MS_DEFAULT

    def faults(self) -> Iterator[tuple[str, str]]:
        if self.batch_ms >= self.expire_ms:
            yield "batch_ms", f"expected less than expire_ms ({self.expire_ms}), found {self.batch_ms}"


@dataclass(frozen=True, slots=True)
class MqttSource:
    """Messages of an MQTT broker, a row each.  Needs the capability mqtt_source."""

    type: Literal["mqtt"]
    url: BrokerUrl
    topic: Annotated[Topic, Doc("topic filter; + and # as MQTT has them")]
    fields: Fields
    format: Annotated[
        Payload, Doc("json, cbor: a map with the fields, an array in their order, or the number if there is one field")
    ] = "json"
    qos: Annotated[Qos, Doc("0: at most once, 1: at least once")] = 0
    ca_file: CaFile = ""
    cert_file: CertFile = ""
    key_file: KeyFile = ""
    username: Username = ""
    password_file: PasswordFile = ""
    id: Id = ""
    queue: QueueKey = field(default_factory=Queue)

    def faults(self) -> Iterator[tuple[str, str]]:
        yield from _faults_broker(self)
        levels = self.topic.split("/")
        for index, level in enumerate(levels):
            if ("#" in level and (level != "#" or index < len(levels) - 1)) or ("+" in level and level != "+"):
                yield "topic", f"expected + and # as whole levels, # as the last one, found {self.topic!r}"
                return
        yield from _faults_topic(self.topic)


@dataclass(frozen=True, slots=True)
class MqttSink:
    """Messages to an MQTT broker, a record each.  Needs the capability mqtt_sink."""

    type: Literal["mqtt"]
    url: BrokerUrl
    topic: Annotated[Topic, Doc("where records are published")]
    format: Annotated[Payload, Doc("an object as JSON, or as deterministic CBOR")] = "json"
    qos: Annotated[Qos, Doc("0: at most once, 1: at least once")] = 0
    retain: Annotated[bool, Doc("the broker keeps the last record for those who come later")] = False
    ca_file: CaFile = ""
    cert_file: CertFile = ""
    key_file: KeyFile = ""
    username: Username = ""
    password_file: PasswordFile = ""
    when: When = "always"

    def faults(self) -> Iterator[tuple[str, str]]:
        yield from _faults_broker(self)
        if "+" in self.topic or "#" in self.topic:
            yield "topic", f"expected a topic without + and #, found {self.topic!r}"
        if self.topic.startswith("$"):
            yield "topic", f"expected a topic that is not the broker's own, found {self.topic!r}"
        yield from _faults_topic(self.topic)


@dataclass(frozen=True, slots=True)
class WebhookSink:
    """Records posted to a web server, as a JSON array.  Needs the capability webhook_sink."""

    type: Literal["webhook"]
    url: WebUrl
    batch: Annotated[int, Range(1, SINK_RECORDS_MAX, "records"), Doc("records of one request at most")] = 64
    batch_ms: Annotated[int, Range(0, 60_000, "ms"), Doc("a record waits so long for others")] = 200
    timeout_s: Annotated[float, Range(0.1, 120.0, "s"), Doc("one request, its answer included")] = 10.0
    tries: Annotated[int, Range(1, WEBHOOK_TRIES_MAX), Doc("then the records of a request are dropped, counted")] = 5
    token_file: Annotated[Secret, Doc("sent as `Authorization: Bearer`, https only; mode 0600")] = ""
    ca_file: Annotated[Secret, Doc("certificates that the server's is checked with; absent: the system's")] = ""
    when: When = "always"

    def faults(self) -> Iterator[tuple[str, str]]:
        yield from _faults_port(self.url)
        if not self.url.startswith("https:"):
            for key in ("token_file", "ca_file"):
                if getattr(self, key):
                    yield key, f"used by https only, found {self.url}"


def _faults_port(url: str) -> Iterator[tuple[str, str]]:
    port = url.split("://", 1)[1].split("/", 1)[0].rpartition("]")[2].partition(":")[2]
    if port and not 1 <= int(port) <= 65_535:
        yield "url", f"expected a port of 1 to 65535, found {port}"


def _faults_topic(topic: str) -> Iterator[tuple[str, str]]:
    if any(char < " " or "\x7f" <= char <= "\x9f" for char in topic):
        yield "topic", "expected no control characters"
    if len(topic.encode()) > 0xFFFF:
        yield "topic", "expected at most 65535 bytes of UTF-8"


def _faults_broker(spec: MqttSource | MqttSink) -> Iterator[tuple[str, str]]:
    yield from _faults_port(spec.url)
    if bool(spec.cert_file) != bool(spec.key_file):
        missing = "key_file" if spec.cert_file else "cert_file"
        yield missing, "missing; cert_file and key_file come together"
    if not spec.url.startswith(("mqtts:", "wss:")):
        for key in ("ca_file", "cert_file"):
            if getattr(spec, key):
                yield key, f"used by mqtts and wss only, found {spec.url}"
    if spec.url.startswith("mqtt") and "/" in spec.url.split("://", 1)[1]:
        yield "url", f"expected no path, which is for ws and wss, found {spec.url}"
    if spec.password_file and not spec.username:
        yield "username", "missing; the password is somebody's"
