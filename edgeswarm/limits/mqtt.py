"""Bounds of MQTT: connections, the broker, sources and sinks of agents."""

from edgeswarm.limits.units import KIB, MIB

# --- mqtt and webhook sources and sinks of agents ---------------------------------------------------------------------
MQTT_TOPIC_CHARS_MAX = 1_024  # the protocol takes 65,535 bytes; a topic of more than this is a payload
MQTT_SOURCE_MESSAGES_MAX = 1_024  # messages that wait for an agent which holds its source back; then none is read
MQTT_SOURCE_BYTES_MAX = 1 * MIB  # the same in bytes
MQTT_SINK_INFLIGHT_MAX = 64  # records that wait for the broker's acknowledgement (QoS 1)
WEBHOOK_TRIES_MAX = 100  # of one request; at the longest wait of 10 s that is a quarter of an hour
WEBHOOK_RETRY_AFTER_S_MAX = 300.0  # a server that asks for more patience than this is asked again anyway
WEBHOOK_ANSWER_BYTES_MAX = 64 * KIB  # of a server's answer: its head is read, the rest is of no interest
SECRET_BYTES_MAX = 64 * KIB  # one password, token or certificate file

# --- mqtt -------------------------------------------------------------------------------------------------------------
MQTT_BROKERS_MAX = 16  # brokers in one list: a site's, a cluster's few, an embedded last resort
MQTT_TOPIC_BYTES_MAX = 1_024  # our longest topic is about 200 bytes; MQTT allows 65,535
MQTT_TOPIC_LEVELS_MAX = 32  # ours have 8; mosquitto refuses more than 200
MQTT_PAYLOAD_BYTES_MAX = 17 * MIB  # of one message, either way: the snapshot of a cell; larger things in chunks
MQTT_PACKET_BYTES_MAX = MQTT_PAYLOAD_BYTES_MAX + 16 * KIB  # with topic and properties; told to the broker (MQTT 5)
MQTT_CONTROL_BYTES_MAX = 32 * KIB  # a MEDIUM message above goes by the bulk connection: 3 ms of a 100 Mbit/s line
MQTT_QUEUE_MESSAGES_MAX = 4_096  # per priority class and connection: a second of the fastest publisher's
MQTT_QUEUE_BYTES_MAX = 4 * MIB  # all classes of one connection together; a larger message waits alone
MQTT_INFLIGHT_MAX = 64  # QoS 1 messages unacknowledged on one connection; mosquitto keeps 20 on its side by default
MQTT_INFLIGHT_RESERVED = 8  # of these only CRITICAL may take: a stop need not wait for acknowledgements
MQTT_SUBSCRIPTIONS_MAX = 1_024  # filters of one connection
MQTT_READ_BYTES = 64 * KIB  # one read of the socket: 200 messages of 300 bytes
MQTT_READ_PACKETS = 128  # packets handled before the loop may do something else: 2-3 ms
MQTT_READ_MS = 5.0  # the same in time, for slow handlers
MQTT_SENDS_DIRECT = 4  # packets that go to the socket at once in one turn of the loop; more are written together
MQTT_WRITE_BYTES_MAX = 128 * KIB  # what one turn gathers, and what the kernel may hold for one socket
MQTT_CONNECT_S = 5.0  # DNS, TCP, TLS and CONNACK together
MQTT_KEEPALIVE_S = 15  # a dead peer is noticed after at most twice that; the broker sends the last will after 1.5 x
MQTT_RECONNECT_MS = 50.0  # first wait is random below this; doubles with each failure (full jitter)
MQTT_RECONNECT_MS_MAX = 5_000.0  # 1,000 devices that wait for one broker make 400 attempts a second
MQTT_HELD_S = 2.0  # a connection that lasted so long was a good one
MQTT_OFFLINE_BYTES = 256 * KIB  # taken from offline storage at one time
MQTT_OFFLINE_MESSAGES_PER_S = 500.0  # forwarded after a reconnect: live traffic goes on beside it

# --- broker -----------------------------------------------------------------------------------------------------------
BROKER_CONNECTIONS_MAX = 8_192  # 1,000 devices with two connections each, four times over
BROKER_EMBEDDED_CONNECTIONS_MAX = 64  # amqtt is slow from a few dozen on
BROKER_INFLIGHT_MAX = 100  # QoS 1 messages on their way to one client: at 1 ms a round trip 100,000 a second
BROKER_CLIENT_QUEUE_MESSAGES = 4_000  # waiting for one slow client; further ones are dropped
BROKER_CLIENT_QUEUE_BYTES = 8 * MIB  # the same in bytes
BROKER_MEMORY_BYTES_MAX = 512 * MIB  # the whole process; 1,000 idle connections take 5 MB
BROKER_START_S = 10.0  # mosquitto listens after 20 ms; on an SD card with a large database after seconds
BROKER_STOP_S = 5.0  # between SIGTERM and SIGKILL: it writes its database
BROKER_LOG_BYTES = 2 * KIB  # of its log in an error text
