"""Bounds of what travels between devices: values, topics, messages, rows of streams."""

from edgeswarm.limits.units import KIB, MIB

# --- wire -------------------------------------------------------------------------------------------------------------
CBOR_DEPTH_MAX = 16  # arrays and maps inside each other; messages need 6
CBOR_ITEMS_MAX = 1_000_000  # values of one message: a window of 4,096 rows x 64 values is a quarter of it
CBOR_BYTES_MAX = 64 * MIB  # one message; the longest carries the weights of an agent

# --- swarm messages ---------------------------------------------------------------------------------------------------
TOPIC_CHARS_MAX = 320  # the longest of ours is 224; MQTT would take 65,535 bytes
DEVICE_ID_CHARS_MAX = 63  # a DNS label, so that a device id may become a host name and a certificate's name
FLEET_NAME_CHARS_MAX = 32  # of a fleet or a cell: a word or two, twice in every topic
ARTEFACT_CHUNKS_MAX = 1 << 20  # chunks of one artefact: 256 KiB each would be 256 GiB
RAFT_BYTES_MAX = 16 * MIB  # one Raft message: a snapshot of the cell is the longest
LEADER_BYTES_MAX = 2 * KIB  # a leader certificate of 10 voters (5 and 5 while they change) is 750 bytes
FEED_BYTES_MAX = 4 * MIB  # one committed batch for the learners
DEVICE_STATE_BYTES_MAX = 256 * KIB  # status, desired or reported state: 1,024 agents at 200 bytes
INBOX_BYTES_MAX = 4 * MIB  # a request or an answer: an answer may be a feed
STREAM_BYTES_MAX = 1 * MIB  # a batch of stream rows: what a ring of one jail holds
EVENT_BYTES_MAX = 256 * KIB  # an event; weights beyond that travel as an artefact
ARTEFACT_CHUNK_BYTES_MAX = 256 * KIB  # payload of one chunk: 20 ms of a 100 Mbit/s line, so that others get through
STOP_BYTES_MAX = 2 * KIB  # a signed order to stop, with its reason
AWAY_MS_MAX = 10_000  # that a device is waited for while another version of its supervisor starts
GONE_BYTES_MAX = 64  # a last will: a boot number
ENVELOPE_OVERHEAD_BYTES_MAX = 256  # header, key id, boot, sequence, signature; 28 more when encrypted
COMPRESS_BYTES_MIN = 1 * KIB  # below this zstd makes single messages longer (measured)
REPLAY_WINDOW_SEQS = 1_024  # sequence numbers behind the highest that may still come: 0.6 s at 1,600 messages/s
DEVICES_MAX = 4_096  # of one cell: 1,000 is what is measured; a roster of more than 3,000 is past its bytes
VOTERS_MAX = 5  # interfaces.md: 1, 3 or 5; two sets of them while they change
CERTIFICATES_PER_DEVICE_MAX = 16  # kept to verify what was signed earlier: 300 days at one rotation in 20
CAPABILITIES_MAX = 64  # granted to one device
AUTHORITIES_MAX = 32  # issuers and operators of a fleet
CERTIFICATE_BYTES_MAX = 1 * KIB  # a certificate is some 200 bytes
ORDER_REASON_CHARS_MAX = 256  # why somebody stopped a cell: a sentence
MESSAGE_ITEMS_MAX = 4_096  # items of one list in a message, where it says nothing else
FEED_ENTRIES_MAX = 4_096  # log entries of one feed message: 2.5 s of 1,600 commits/s
AGENTS_PER_STATUS_MAX = 1_024  # agents of one supervisor
COMMAND_BYTES_MAX = 1 * MIB  # one command for the log: the plan of a large job; weights go as artefacts
UPDATE_BYTES_MAX = 128 * KIB  # a neural update inside its message; larger ones name an artefact
TASK_BYTES_MAX = 128 * KIB  # input or result of one task inside its message; larger ones name an artefact
DEADLINE_MS_MAX = 7 * 24 * 3_600_000  # a week: what waits longer is a schedule

# --- streams across devices -------------------------------------------------------------------------------------------
REMOTE_BATCH_ROWS_DEFAULT = 32  # rows of one message: at 16 values 2 KB, where MQTT and the signature cost little a row
REMOTE_BATCH_ROWS_MAX = 1_024  # past this one lost message is a long gap
REMOTE_BATCH_BYTES_MAX = 256 * KIB  # one message of a stream
REMOTE_BATCH_MS_DEFAULT = 50  # ms a row waits for company at most: half a period of a 10 Hz stream
REMOTE_BATCH_MS_MAX = 60_000  # ms; who waits longer wants a file
REMOTE_EXPIRE_MS_DEFAULT = 10_000  # ms after which a row of another device is of no use
REMOTE_AGE_MS_MAX = 86_400_000  # ms; a day: older rows are history, not a stream
REMOTE_LATE_MS_DEFAULT = 1_000  # ms from which a row says that it is late
REMOTE_SILENCE_MS_DEFAULT = 3_000  # ms without a row before `any` follows another device of the same epoch
REMOTE_CLOCK_TRUST_MS = 2_000  # ms; NTP keeps clocks within 0.1 s, a device without it is minutes off
REMOTE_CLOCK_WINDOW_MS = 60_000  # ms over which the quickest message is kept, to tell a late one by
REMOTE_SENDERS_MAX = 32  # devices whose positions a subscriber remembers: an agent that moved so often starts anew

# --- what was heard ---------------------------------------------------------------------------------------------------
HEARD_BYTES_MAX = 1 * MIB  # boots and counts of DEVICES_MAX peers, kept over a restart
