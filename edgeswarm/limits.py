"""Every bound of the runtime: NAME_UNIT = value, and the reason for the number.

Imports nothing.  A bound that only one profile wants belongs into `profiles/`, not here.
"""

from __future__ import annotations

KIB = 1 << 10
MIB = 1 << 20

# --- schema ---------------------------------------------------------------------------------------------------------
TEXT_CHARS_MAX = 4_096  # any text value that states no length of its own: a paragraph, not a document
LIST_ITEMS_MAX = 65_536  # any list that states no length of its own: one item per value of the widest row
FAULTS_MAX = 100  # faults listed for one file: past this a person fixes the first and looks again

# --- agent file -----------------------------------------------------------------------------------------------------
AF_HEADER_BYTES_MAX = 1 * MIB  # a YAML header is a few KB; 1 MiB holds 10,000 golden labels and still parses in < 1 s
AF_SECTIONS_MAX = 16  # four kinds exist today; room to grow, and small enough to check by eye
AF_SECTION_BYTES_MAX = 256 * MIB  # the largest net of the benchmarks is 4 MiB; what a Pi Zero (512 MB) could still map
AF_EXPANSION_RATIO_MAX = 200  # zstd of f32 weights reaches ~1.2x, of zeros ~10,000x: what is beyond is a bomb

AF_YAML_DEPTH_MAX = 16  # tables and lists inside each other; the format itself needs 5
AF_YAML_NODES_MAX = 200_000  # keys and values of one header: three vectors of the widest row, 30 MB while read
AF_TEXT_SECTIONS_BYTES_MAX = 1 * MIB  # sections of a file without a table, all together: placeholders, not weights
AF_READ_BYTES = 1 * MIB  # one read of an agent file; what is held of a section nobody wants
AF_SIGNATURE_BYTES_MAX = 1 * KIB  # a COSE_Sign1 with one Ed25519 signature and a key id is some 100 bytes
AF_ZSTD_WINDOW_BYTES_MAX = 8 * MIB  # what RFC 8878 3.1.1.1.2 asks every decoder to offer; allocated while decoding

# --- wire -----------------------------------------------------------------------------------------------------------
CBOR_DEPTH_MAX = 16  # arrays and maps inside each other; messages need 6
CBOR_ITEMS_MAX = 1_000_000  # values of one message: a window of 4,096 rows x 64 values is a quarter of it
CBOR_BYTES_MAX = 64 * MIB  # one message; the longest carries the weights of an agent

# --- kernel ABI -----------------------------------------------------------------------------------------------------
KERNEL_WASM_BYTES_MAX = 16 * MIB  # generated kernels are 6-24 KB; hand-made ones with tables stay below 16 MiB
KERNEL_LAYOUT_BYTES_MAX = 64 * KIB  # JSON of the custom section
KERNEL_MEMORY_BYTES_MAX = 512 * MIB  # `resources.limits.memory_mb` of the specification's agent class
KERNEL_WIDTH_MAX = 65_536  # values of one input or output row: 256 KiB of f32, so that one row fits into the ring
KERNEL_BATCH_MAX = 4_096  # rows of one call: past this nothing gets faster, and memory grows
LAYERS_MAX = 64  # of one model; the deepest of the benchmarks has 10, and code size grows with every one
KERNEL_WASM_ITEMS_MAX = 65_536  # sections, types, functions or exports of one module: a check stays below a second
MODEL_FILE_BYTES_MAX = 512 * MIB  # a .npz or JSON of weights: text of the largest section is about twice its size

# --- jail -----------------------------------------------------------------------------------------------------------
JAIL_AGENTS_MAX = 128  # slots in one jail
JAILS_MAX = 1_024  # jails of one supervisor
RING_BYTES_DEFAULT = 1 * MIB  # per jail, both directions together
RING_BYTES_MAX = 64 * MIB  # a batch of the widest rows (65,536 values x 256) is one such ring
CALL_DEADLINE_MS_DEFAULT = 1_000  # a kernel call that takes longer is interrupted
CALL_DEADLINE_MS_MAX = 60_000  # past a minute an agent is a batch job, and holds its whole jail up
JAIL_READY_MS_MAX = 20_000  # from spawn to READY on the slowest board with a cold cache
ZYGOTE_MESSAGE_BYTES_MAX = 256 * KIB  # JSON of 128 agents at about 1 KB each, with room
CWASM_BYTES_MAX = 64 * MIB  # compiled code of one kernel: a generated one is 30-150 KB, a 16 MiB module about 50 MiB
CWASM_CACHE_BYTES_MAX = 256 * MIB  # compiled kernels kept on disk; the longest unused go first
COMPILE_MS_DEFAULT = 30_000  # a generated kernel takes 10-100 ms on a PC, ten times that on a Pi Zero
ZYGOTE_STARTS_MAX = 5  # zygotes in a row that die before they are ready: then something is wrong with the machine

# --- streams --------------------------------------------------------------------------------------------------------
QUEUE_ROWS_DEFAULT = 256  # rows; 25 s of a 10 Hz stream, 2.5 s of a 100 Hz one
QUEUE_ROWS_MAX = 65_536  # rows; of 16 values each that is some 50 MB of Python floats
WINDOW_ROWS_MAX = 4_096  # rows; a window of more is a file, not a stream
SOURCES_PER_AGENT_MAX = 16  # a join of more is a network of agents
SINKS_PER_AGENT_MAX = 16  # every answer is written once per sink
LINE_BYTES_MAX = 1 * MIB  # one line of a csv, jsonl, tail or exec source
SOURCE_WIDTH_MAX = 4_096  # fields of one source; the largest net of the benchmarks takes 784
FRAMES_IN_FLIGHT_MAX = 256  # unanswered frames of one agent: more than a ring of 1 MiB holds of the usual sizes
FRAMES_IN_FLIGHT_BYTES_MAX = 4 * MIB  # the same in bytes, so that a checkpoint can hold them
SEQ_LIFE = 10**12  # frame numbers that one life of an agent may use: 300 years at 100 Hz; a restart takes the next
FRAME_TRIES_MAX = 2  # a frame is sent once more after a jail died of it, then it is poison
REPORT_INTERVAL_NS = 10_000_000_000  # one log line per event, kind and 10 s: a flood of bad rows stays readable
REPORT_NAMES_MAX = 256  # kinds of event that one reporter tells apart; what comes past that shares a line
FLOAT32_MAX = 3.4028234663852886e38  # no unit; what a kernel cannot be given is refused at the source
SOURCE_READ_BYTES = 64 * KIB  # one read of a source: some 1,000 lines, about 100 µs of work
SOURCE_ROWS_BURST = 64  # rows a source hands over before it lets the loop go round: about 1 ms
SOURCE_RETRY_MS = 100.0  # first wait before a vanished source is opened again; doubles up to the next line
SOURCE_RETRY_MS_MAX = 10_000.0  # a source that comes back is read again within 10 s
SOURCE_LOOK_MS = 1_000.0  # how often a source is looked at for a stall
SOURCE_STALL_PERIODS = 10  # a source without a row for this many of its periods has stalled
SOURCE_STALL_MS = 10_000.0  # the same for sources that name no rate
VITALS_AGE_MS_MIN = 50.0  # the kernel counts cpu time in steps of up to 10 ms: closer readings are noise
VITALS_SLOW_AGE_MS_MIN = 1_000.0  # temperature, processes, disk space: slow to read, slow to change
TAIL_POLL_MS = 100.0  # how often a file at its end is looked at again
TAIL_MARKS_MAX = 65_536  # line positions kept to go back by the rows an agent has not answered: one full queue
CHILD_STOP_MS = 2_000.0  # an exec child has this long between SIGTERM and SIGKILL
CHILD_KILL_MS = 200.0  # the loop waits so long for a killed child to be gone; it takes about 1 ms
CHILD_STDERR_BYTES = 2 * KIB  # the end of what it said last: a traceback's last lines
SINK_RECORDS_MAX = 1_024  # records that wait for a slow, full or restarting sink; then the oldest goes, counted
SINK_BYTES_MAX = 1 * MIB  # the same in bytes
SINK_RECORD_BYTES_MAX = 256 * KIB  # one record: 4,096 values of 20 characters are 80 KiB
SINK_RETRY_MS = 500.0  # wait after a failed write before the next try
SOCKET_READER_BYTES_MAX = 256 * KIB  # what waits for one slow reader: 1,000 records of a small agent
SOCKET_READERS_MAX = 32  # readers that follow one socket sink

# --- supervisor -----------------------------------------------------------------------------------------------------
AGENTS_MAX = 1_024  # agents of one supervisor: every one in a jail of its own at most
CONTROL_MESSAGE_BYTES_MAX = 64 * MIB  # an agent file is deployed through the control socket by its path; weights inline
SOCKET_PATH_BYTES_MAX = 107  # sockaddr_un.sun_path less its NUL
MEMORY_WIDTH_MAX = 4_096  # values kept between the calls of one agent
CHECKPOINT_BYTES_MAX = 16 * MIB  # a window of 4,096 rows x 64 values as CBOR floats is 2.4 MB; room for several
CONTROL_INBOX_MAX = 4_096  # control events waiting: 1,024 agents, each with a few
SET_ASIDE_FRAMES_MAX = 1_000  # poison frames kept with their bytes; older ones go first, counted
CONTROL_CLIENTS_MAX = 64  # connections to the control socket at one time
IN_FLIGHT_MAX = 64  # frames of one agent inside its jail: enough to batch, little enough to send again after a death
CONFIG_BYTES_MAX = 1 * MIB  # a settings file is a page; beyond this somebody named the wrong file
PROFILE_INHERITS_MAX = 4  # profiles in one chain of `inherits`: a board, its family, default, and one to spare
KERNEL_CONFIG_BYTES_MAX = 4 * MIB  # a distribution kernel's configuration is 300 KB
DRAIN_S_MAX = 5.0  # answers in flight when an agent is closed or swapped; deadlines end them sooner
AF_FILE_BYTES_MAX = 272 * MIB  # one section of the largest size, the header, and the rest
ASK_ROWS_MAX = 10_000  # rows of one `ask`: a request holds its connection until the last is answered
FOLLOW_LINES_MAX = 1_000  # items waiting for one follower of logs or a stream

# --- command line ---------------------------------------------------------------------------------------------------
TABLE_LINE_BYTES_MAX = 4 * MIB  # a row of `agent run --input`: 65,536 values of up to 25 characters are 1.6 MB

# --- raft -----------------------------------------------------------------------------------------------------------
RAFT_NUMBER_MAX = (1 << 63) - 1  # terms, indexes, raft numbers: what SQLite keeps as an integer
RAFT_MEMBERS_MAX = 64  # members of one half of a configuration: 5 voters, their successors, learners being promoted
RAFT_ENTRY_BYTES_MAX = 1 * MIB + KIB  # one proposal: a command of the largest size, and its tag
RAFT_ENTRIES_MAX = 4_096  # entries of one message; its bytes end it sooner
RAFT_CONTEXT_BYTES_MAX = 4 * KIB  # of a heartbeat or a read: an id of 16 bytes today
RAFT_SIGNATURE_BYTES_MAX = 1 * KIB  # a signed vote: one Ed25519 signature and its header are some 150 bytes
RAFT_SNAPSHOT_BYTES_MAX = 16 * MIB  # the replicated state of a cell of 1,000 devices is some 1 MB
RAFT_MESSAGE_BYTES_MAX = 17 * MIB  # a snapshot and what stands around it
RAFT_PACKET_BYTES_MAX = 512 * KIB  # messages of one packet together, unless one alone is larger
RAFT_PACKET_MESSAGES_MAX = 1_024  # messages of one voter to another in one turn: a few hundred appends in flight
RAFT_SNAPSHOT_ELECTIONS = 10  # election timeouts until a snapshot without an answer counts as lost: lan 1.5 s
RAFT_APPEND_BYTES_MAX = 1 * MIB  # entries of one append by default: 4 largest entries, 10 ms of a 1 Gbit/s link
RAFT_UNCOMMITTED_BYTES_MAX = 16 * MIB  # proposals that wait for a quorum; beyond, proposals are refused
RAFT_APPLYING_BYTES_MAX = 16 * MIB  # committed entries handed out and not yet applied
RAFT_INFLIGHT_MESSAGES_MAX = 256  # appends on their way to one follower
RAFT_READS_MAX = 1_024  # read requests that wait for a quorum's answer or for the first commit of a term

# --- streams across devices -----------------------------------------------------------------------------------------
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

# --- swarm messages -------------------------------------------------------------------------------------------------
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

# --- raft: members --------------------------------------------------------------------------------------------------
RAFT_CHANGES_MAX = 64  # single changes in one change of members: 5 voters out, 5 in, and room for learners
RAFT_CHANGE_CONTEXT_BYTES_MAX = 64 * KIB  # a signed roster of 50 entries at 1 KiB rides along with the change

# --- raft store, offline queue, artefacts ---------------------------------------------------------------------------
RAFT_STORE_WAITING_BYTES_MAX = 64 * MIB  # handed over and not yet on disk: a second of a slow SD card, ten times over
RAFT_LOG_KEPT = 5_000  # entries kept behind a snapshot, so that a follower a little late needs no snapshot
RAFT_LOG_ENTRIES_MAX = 1_000_000  # entries of one database: beyond this nobody took snapshots; it opens in seconds
RAFT_COMMIT_LAG_S = 1.0  # a commit index alone is not worth an fsync; it goes with the next save or after this long
RAFT_WAL_BYTES = 2 * MIB  # the write-ahead log goes back into the database at this size, when it is quiet
RAFT_QUIET_S = 0.02  # no save for so long is quiet: checkpoints and deletions, some ms each, disturb nobody
RAFT_DELETE_ROWS = 1_000  # compacted rows deleted in one transaction: about 1 ms on a PC, 20 ms on a Pi
RAFT_CHORE_FACTOR = 4  # under steady load chores wait until so many times over: 1 commit in 600 waits for one
RAFT_META_BYTES_MAX = 64 * KIB  # one value of the meta table: a leadership certificate of 5 voters is under 1 KB
RAFT_META_KEYS_MAX = 1_024  # a few per peer
OFFLINE_BYTES_MAX = 32 * MIB  # stored for a broker that is away: an hour of 100 messages of 90 bytes a second
OFFLINE_MESSAGES_MAX = 20_000  # the index in memory: some 300 bytes each
OFFLINE_AGE_S_MAX = 7 * 86_400.0  # what is older than a week helps nobody
OFFLINE_FLUSH_S = 5.0  # what a power cut may cost of classes below CRITICAL; SD cards wear with each write
OFFLINE_FLUSH_BYTES = 64 * KIB  # or as soon as so much waits: what an SD card writes in one piece
OFFLINE_UNWRITTEN_BYTES_MAX = 4 * MIB  # waits in memory while the disk is full or stuck; then what comes is dropped
OFFLINE_AHEAD_BYTES = 512 * KIB  # payloads read ahead of take(): two batches of MQTT_OFFLINE_BYTES
OFFLINE_OVERHEAD_BYTES = 64  # what a message weighs beside topic and payload
ARTEFACT_PIECE_BYTES = 64 * KIB  # a chunk, doubled until MESSAGE_ITEMS_MAX of them are enough
ARTEFACT_BYTES_MAX = 1024 * MIB  # MESSAGE_ITEMS_MAX chunks of ARTEFACT_CHUNK_BYTES_MAX: one offer names them all
ARTEFACT_PEERS_MAX = 64  # peers that one fetch knows; a few serve it well
ARTEFACT_MANIFESTS_MAX = 4  # lists of chunks that one fetch weighs against each other: one is right
ARTEFACT_ASK_CHUNKS_MAX = 16  # chunks of one request: 1 MiB of the usual size
ARTEFACT_WINDOW_CHUNKS = 32  # chunks asked for or on their way to the disk, of all peers: 2 MiB of the usual size
ARTEFACT_PEER_CHUNKS = 16  # of one peer
ARTEFACT_CHUNK_S = 5.0  # a chunk that is not here by then is asked for again, elsewhere if possible
ARTEFACT_BACKOFF_S_MAX = 60.0  # a peer that keeps silent is asked ever less often, down to this
ARTEFACT_STALL_S = 120.0  # a fetch that gets no chunk for so long has failed, and says why
ARTEFACT_FETCH_BYTES_PER_S = 4 * MIB  # a third of a 100 Mbit/s line: bulk leaves room
ARTEFACT_SERVE_BYTES_PER_S = 8 * MIB  # of all that ask one device
ARTEFACT_SERVE_CHUNKS_MAX = 1_024  # chunks that wait to be sent, of all that ask
ARTEFACT_SERVE_PEER_CHUNKS_MAX = 64  # of one that asks
ARTEFACT_FETCHES_MAX = 64  # at one time; a device runs a few agents, and takes over a dead one's
ARTEFACT_OFFER_S = 1.0  # between two offers of one artefact to everybody, however many ask
ARTEFACT_QUOTA_BYTES = 2048 * MIB  # of the store; beyond it the longest unused go first
ARTEFACTS_MAX = 4_096  # in the store: one directory each
RAFT_RECOVERY_TERMS = 1_000  # a recovered log starts so many terms higher: above what the lost voters can have reached

# --- cell state -----------------------------------------------------------------------------------------------------
CELL_COMMAND_BYTES_MAX = 1 * MIB  # one log entry: a job of 4,096 small tasks, or a map that names 10,000 agents
CELL_SNAPSHOT_BYTES_MAX = 64 * MIB  # what CBOR_BYTES_MAX allows one value; a test adds the bounds below up to less
CELL_DEVICES_MAX = 4_096  # devices of one cell: four times what the figures are shown for
CELL_AGENTS_MAX = 8_192  # agents of one cell: 2 a device; 10 MB of a snapshot at most
CELL_JOBS_MAX = 1_024  # jobs kept, running and ended; the one that ended longest ago goes first
CELL_JOBS_BYTES_MAX = 24 * MIB  # inputs, and results as reserved when a job was submitted, of all jobs kept
CELL_SESSIONS_MAX = 4_096  # clients with exactly-once commands: one a device; the longest unused goes first
CELL_SESSIONS_PER_CLIENT_MAX = 4  # one client that opens sessions without end evicts its own only
SESSION_ANSWERS_MAX = 16  # answers kept for one session: commands that a client may have under way
SESSION_REASON_BYTES_MAX = 96  # of a kept answer: enough to say what was expected
SESSION_SEQ_MAX = (1 << 63) - 1  # numbers of one session's commands: what SQLite holds, and no client uses up
AUDIT_RECORDS_MAX = 256  # what operators did last; the rest is in the log of each device
COMMAND_BATCH_MAX = 1_024  # commands, moves or assignments of one entry: a dead device's agents move in one
WHO_BYTES_MAX = 128  # UTF-8 of an operator's or a client's name
WHY_BYTES_MAX = 256  # UTF-8 of a reason that a person reads in one line
ROSTER_BYTES_MAX = 1 * MIB - 4 * KIB  # 1,000 entries of 700 bytes, and it fits into one entry with its head
CAPABILITY_NAMES_MAX = 64  # delegates, sensors, grants or labels of one device, or wanted by one agent: each
CAPABILITY_BYTES_MAX = 128  # UTF-8 of one such name or value
CAPABILITIES_BYTES_MAX = 2 * KIB  # all names of one device together: 100 of 20 bytes
NEEDS_BYTES_MAX = 1 * KIB  # all names that one agent or task needs or neighbours, together
AGENT_NEIGHBOURS_MAX = 16  # agents that one wants to be near, or apart from
JOB_TASKS_MAX = 4_096  # tasks of one job; more work than that is a map
JOB_EDGES_MAX = 65_536  # dependencies of one job: 16 a task where all tasks are there
TASK_AFTER_MAX = 256  # tasks that one task waits for
TASK_INPUT_BYTES_MAX = 64 * KIB  # input inside the log; what is larger travels as an artefact
TASK_RESULT_BYTES_MAX = 64 * KIB  # the same for the result
TASK_RETRIES_MAX = 100  # past this a task does not work, and somebody should look
TASK_LOSSES_MAX = 8  # devices that may die under one task before the task is what kills them
TASK_MS_MAX = 7 * 86_400_000  # deadlines and back-off: a week
MAP_AGENTS_MAX = 10_000  # agents of one map: ten times what the issue asks for
HEALTH_DEVICES_MAX = CELL_DEVICES_MAX  # devices that a leader listens to: those of its cell
PLACEMENT_REASONS_MAX = 256  # different wishes for which a plan counts why nothing fits: O(devices) each
REBALANCE_MOVES_MAX = 64  # moves of one gentle step: a moved agent loses a second, a cell should not notice
TASKS_PER_DEVICE_MAX = 16  # tasks under way on one device: more would wait there instead of here, where they can move
TASK_BACKOFF_MS_MAX = 300_000  # between two attempts of a task: five minutes, however often it failed
MAP_IN_FLIGHT_MAX = 1_024  # agents asked and not answered: what one leader asks in a second
MAP_TRIES_MAX = 3  # times that one agent of a map is asked
MAP_FOLD_ROWS = 64  # answers that a kernel draws together at a time: a batch it is built for
VOTE_CHOICES_MAX = 1_024  # different answers that a vote counts apart; the rest are counted as others
AGGREGATE_WIDTH_MAX = 65_536  # values of one answer: KERNEL_WIDTH_MAX, the widest row there is

# --- mqtt and webhook sources and sinks of agents --------------------------------------------------------------------
MQTT_TOPIC_CHARS_MAX = 1_024  # the protocol takes 65,535 bytes; a topic of more than this is a payload
MQTT_SOURCE_MESSAGES_MAX = 1_024  # messages that wait for an agent which holds its source back; then none is read
MQTT_SOURCE_BYTES_MAX = 1 * MIB  # the same in bytes
MQTT_SINK_INFLIGHT_MAX = 64  # records that wait for the broker's acknowledgement (QoS 1)
WEBHOOK_TRIES_MAX = 100  # of one request; at the longest wait of 10 s that is a quarter of an hour
WEBHOOK_RETRY_AFTER_S_MAX = 300.0  # a server that asks for more patience than this is asked again anyway
WEBHOOK_ANSWER_BYTES_MAX = 64 * KIB  # of a server's answer: its head is read, the rest is of no interest
SECRET_BYTES_MAX = 64 * KIB  # one password, token or certificate file

# --- mqtt -----------------------------------------------------------------------------------------------------------
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

# --- a device in its cell -------------------------------------------------------------------------------------------
PROPOSALS_WAITING_MAX = 10_000  # proposals of one device that wait for their entry: 5 s of a leader at its limit
CALLS_WAITING_MAX = 4_096  # questions of one device that wait for an answer
CALLS_SERVED_MAX = 2_048  # questions of others that a device answers at one time; beyond, it says "busy"
ROSTERS_KEPT_MAX = 16  # versions kept behind the current one: certificates cite the version they were made under

# --- broker ---------------------------------------------------------------------------------------------------------
BROKER_CONNECTIONS_MAX = 8_192  # 1,000 devices with two connections each, four times over
BROKER_EMBEDDED_CONNECTIONS_MAX = 64  # amqtt is slow from a few dozen on
BROKER_INFLIGHT_MAX = 100  # QoS 1 messages on their way to one client: at 1 ms a round trip 100,000 a second
BROKER_CLIENT_QUEUE_MESSAGES = 4_000  # waiting for one slow client; further ones are dropped
BROKER_CLIENT_QUEUE_BYTES = 8 * MIB  # the same in bytes
BROKER_MEMORY_BYTES_MAX = 512 * MIB  # the whole process; 1,000 idle connections take 5 MB
BROKER_START_S = 10.0  # mosquitto listens after 20 ms; on an SD card with a large database after seconds
BROKER_STOP_S = 5.0  # between SIGTERM and SIGKILL: it writes its database
BROKER_LOG_BYTES = 2 * KIB  # of its log in an error text
RAFT_SNAPSHOT_EVERY = 5_000  # entries between two snapshots of a voter: 3 s at a leader's limit, else days
SNAPSHOT_PIECE_BYTES = 128 * KIB  # one piece of a snapshot for a follower: fits into an inbox message
BATCH_ITEM_BYTES_MAX = 64 * KIB  # a message that shares an envelope with others; larger ones travel alone
BATCH_BYTES_MAX = 256 * KIB  # messages of one envelope, together

# --- streams in a cell ----------------------------------------------------------------------------------------------
STREAM_WAITING_ROWS_MAX = 4_096  # rows of one source that wait for its agent; the oldest go first
STREAM_WAITING_VALUES_MAX = 262_144  # the same in values: 8 MB as Python's floats, and four messages of any width
STREAM_EARLY_ROWS_MAX = 1_024  # rows of an agent that was opened before this device has noted its placement
STREAM_PARKED_MAX = 64  # messages of a device that the cell's table does not name (yet)
STREAM_PARKED_MS_MAX = 2_000  # ms they wait for the table: it follows the leader within a heartbeat
STREAM_BULK_BYTES = 16 * KIB  # a stream with larger messages goes over the second connection

# --- jobs on devices ------------------------------------------------------------------------------------------------
JOB_FILE_BYTES_MAX = 8 * MIB  # text of a job file: what it holds must fit into one log entry anyway
JOB_ROWS_MAX = 4_096  # rows of one task: what is more is several tasks, or a stream
TASK_RESULT_BYTES = 8 * KIB  # kept free for the result of a task that does not say how much it needs: 100 small rows
TASK_DEADLINE_S = 60.0  # of one attempt, where the job file says nothing: nothing waits for ever by default
TASK_PROGRESS_S = 0.2  # between two words of one task on how far it is
TASK_NAG_S = 1.0  # between two tellings of an assignment that was not acknowledged
TASK_RETRY_S_MAX = 5.0  # between two tries to hand in a result: the cell may be without a leader for long
TASK_AGENT_KEEP_S = 10.0  # an agent that was deployed for a task stays so long after its last one
MAP_SHARE_AGENTS = 64  # agents of one device asked with one message: 64 answers of 1,000 values fit into an answer
MAP_SHARES_MAX = 64  # such messages under way at one time, for one map
SHARE_ASKS_MAX = 16  # agents of one message asked at one time on their device
SWARM_MESSAGES_WAITING_MAX = 1_000  # messages of applications that wait for one reader; further ones are dropped
CHECKPOINT_TRAVEL_S = 1.0  # between two looks at what stateful agents have saved: what a move may lose, at least
CHECKPOINT_WAIT_S = 10.0  # an agent starts without its state rather than not at all
COORDINATOR_DEVICES_MAX = 64  # processes that a program may start as a fleet for development

# --- what was heard -------------------------------------------------------------------------------------------------
HEARD_BYTES_MAX = 1 * MIB  # boots and counts of DEVICES_MAX peers, kept over a restart

# --- issue 4: the controller and its operators
FLEET_FOLLOW_S = 30.0  # an operator that follows something says every 10 s that it still does
FLEET_FOLLOWERS_MAX = 64  # of one controller: a console follows one or two things
FLEET_ROWS_MAX = 1_000  # in one message to a follower
FLEET_CALL_S = 60.0  # for one answer of the controller: a rollout's artefact spreads to the voters in it

# --- issue 4: audit, rotation, revocation ----------------------------------------------------------------------------
AUDIT_LINE_BYTES_MAX = 16 * KIB  # one line: every text at its bound below, each character escaped in six bytes
AUDIT_TEXT_CHARS_MAX = 128  # of an action, a name, a role, a capability, a cause
AUDIT_REASON_CHARS_MAX = 512  # of a reason or a target: an error text that a person reads
AUDIT_SEGMENT_BYTES = 1 * MIB  # one file of the audit log: 3,000 lines
AUDIT_SEGMENT_S = 30 * 86_400.0  # or so old: what is younger than a month is in at most two files
AUDIT_BYTES_MAX = 32 * MIB  # all files of one device together; the oldest goes first
AUDIT_AGE_S_MAX = 400 * 86_400.0  # a year and the time to ask about it
AUDIT_CHECKPOINT_LINES = 64  # lines between two signatures in the log itself; the head is signed with every write
AUDIT_WAITING_MAX = 4_096  # lines that wait for the disk; further ones are counted, and the count is written
AUDIT_REFUSALS_BURST = 100  # refusals that peers can put into the log at once
AUDIT_REFUSALS_PER_S = 0.1  # and then: at 300 bytes each a flood needs 12 days to push older lines out
RENEWAL_REQUEST_BYTES_MAX = 2 * KIB  # two signatures, three keys and two names
RENEWAL_ANSWER_BYTES_MAX = ROSTER_BYTES_MAX + 256 * KIB  # a roster, certificates, and all changes of the root
RENEWAL_LATE_MAX = 256  # renewals through the listener for newcomers under way at one time; others ask again
RENEWAL_BATCH_S = 0.2  # renewals of so long become one roster
RENEWAL_LOOK_S = 600.0  # between two looks at a certificate's dates: a clock may be set meanwhile
RENEWAL_RETRY_S = 30.0  # after a renewal that failed; doubled up to
RENEWAL_RETRY_S_MAX = 3_600.0  # this: ten days are left
RENEWAL_SETTLE_S = 3.0  # after a roster names the new key, until messages are signed with it: others hear of it first
AUDIT_SEGMENTS_MAX = 1_024  # files that `audit verify` reads: AUDIT_BYTES_MAX of the smallest segments that make sense

# --- issue 4: broker and certificates -------------------------------------------------------------------------------
PASSPHRASE_CHARS_MIN = 8  # shorter ones fall to guessing, whatever a guess costs
PASSPHRASE_CHARS_MAX = 1_024  # a sentence; more is a file that was piped in by mistake
SEALED_PASSES_MAX = 20  # of Argon2id: 5 s at 256 MiB; a file that asks for more is hostile
SEALED_MEMORY_BYTES_MAX = 1_024 * MIB  # libsodium's SENSITIVE
SEALED_TEXT_BYTES_MAX = 512 * MIB  # a backup of a controller under a passphrase, in base64
PEM_BYTES_MAX = 64 * KIB  # certificates of one file: a chain has 2 of 0.8 KiB, a bundle of roots some
CRL_BYTES_MAX = 8 * MIB  # 100,000 revoked certificates of 60 bytes, in base64
BROKER_HOSTS_MAX = 32  # names and addresses of one broker's certificate
FLEET_ISSUER_DAYS = 730  # an issuer's office and its X.509 certificate: rotated before that (`fleet rotate issuer`)
FLEET_OPERATOR_DAYS = 1_095  # an operator's office: rotated with the person, or after three years
FLEET_CONSOLE_DAYS = 365  # the controller's and a console's certificate: renewed by themselves at two thirds of it

# --- issue 4: index and view ----------------------------------------------------------------------------------------
SELECTOR_CHARS_MAX = 2_048  # a selector is a line that a person types; a script may list some 30 device ids
SELECTOR_TERMS_MAX = 64  # terms and values of one selector: each is a condition of one SQL statement
SELECTOR_STARS_MAX = 4  # stars of one value: matching stays below len(value) * len(glob) here, and cheap in SQLite
INDEX_DEVICES_MAX = 65_536  # rows of the index: 16 cells of the largest size; what comes past that is not indexed
INDEX_EVENTS_MAX = 100_000  # events kept: a week of 10,000 devices with one event a day each, 30 MB
INDEX_EVENTS_AGE_S = 30 * 86_400  # and for how long: a month back is what "since when" asks
INDEX_ALERTS_MAX = 10_000  # alerts kept; acknowledged ones go first, then the oldest
INDEX_WAITING_EVENTS_MAX = 20_000  # heard and not yet written: some 10 s of a storm; then the oldest go, counted
INDEX_DEVICE_EVENTS_BURST = 200  # events of one device at once: all its agents start
INDEX_DEVICE_EVENTS_PER_S = 5.0  # and then a second: one that floods would push what others tell out of the index
INDEX_FLUSH_S = 0.25  # what was heard is written so often: a batch costs one commit, and a view is that old at most
INDEX_PAGE_ROWS_MAX = 10_000  # devices or events of one answer to this machine: 15 ms of packing
INDEX_PAGE_REMOTE_ROWS_MAX = 1_000  # the same over MQTT, whose codec needs 25 us a row: the loop must not stand still
INDEX_PAGE_BYTES_MAX = 2 * MIB  # of the texts of one answer: half of what an inbox takes
INDEX_FOLLOWERS_MAX = 64  # operators that follow events at one time: CONTROL_CLIENTS_MAX
INDEX_TEXT_CHARS_MAX = 1_024  # of one text of a device in the index: software, why something failed
INDEX_METRICS_MAX = 64  # numbers of one device that are kept: what a page shows
LOG_TAIL_BYTES_MAX = 256 * KIB  # of a device's log in one answer: all 2,000 lines of most logs
LOG_TAIL_LINES_MAX = 2_000  # app/log.py keeps no more
ALERT_COMMAND_S_MAX = 30.0  # a command that is run on an alert; then it is killed
ALERT_COMMANDS_WAITING_MAX = 64  # alerts that wait for it; more are counted, and kept in the index anyway
ALERT_COMMAND_PAUSE_S = 1.0  # between two runs: a storm of alerts is not a storm of processes
BUNDLE_FILE_BYTES_MAX = 2 * MIB  # of one file in a support bundle: the end of a log
BUNDLE_BYTES_MAX = 32 * MIB  # of a support bundle, before it is compressed
HOME_ASSISTANT_DEVICES_MAX = 1_000  # devices shown to Home Assistant: some 6 entities each, which is what it bears

# --- issue 4: installation and the service manager -------------------------------------------------------------------
NOTIFY_PATH_BYTES_MAX = 107  # sun_path of Linux less its terminating zero
NOTIFY_STATUS_CHARS_MAX = 200  # one line of `systemctl status`
WATCHDOG_S_MIN = 0.2  # half of it is a beat every 100 ms: what is shorter was meant otherwise
TRIAL_STARTS_MAX = 3  # of a new version that never became healthy; the launcher of a bundle says the same number
TRIAL_BYTES_MAX = 256  # two version names and a digit
INSTALL_FILES_MAX = 256  # that one installation may have written: units, drop-ins, scripts; it writes about ten
INSTALL_ACCOUNT_BYTES_MAX = 4 * MIB  # of /etc/passwd and its like: 50,000 accounts
INSTALL_NOTE_BYTES_MAX = 256 * KIB  # what an installation wrote down of itself: INSTALL_FILES_MAX paths with hashes
INSTALL_COMMAND_S = 120.0  # one command of the service manager: a stop waits until every agent has drained
INSTALL_OUTPUT_CHARS_MAX = 2_000  # of such a command in an error text

# --- issue 4: rollouts ------------------------------------------------------------------------------------------------
PLAN_BYTES_MAX = 16 * KIB  # a signed plan in the replicated log: 16 sections, a selector, 32 waves take 5 KiB
PLAN_SELECTOR_CHARS_MAX = 2_000  # a selector that a person wrote
PLAN_WAVES_MAX = 32  # 1, 10 %, 50 %, 100 % are 4
PLAN_SECTIONS_MAX = 16  # of an agent file
PLAN_HEALTHY_S_MAX = 7 * 86_400  # a week of watching; a gate that waits longer was forgotten
ROLLOUT_ORDER_BYTES_MAX = 4 * KIB  # an order with its reason
ROLLOUT_WHY_CHARS_MAX = 300  # of a reason: an error text that a person reads
ROLLOUT_LIVES = 3  # starts of a device during one trial that ended without a word: then the version is given up
ROLLOUT_FAILED_MAX = 32  # rollouts of one agent that a device remembers to have failed here
ROLLOUT_BEFORE_MAX = 2  # versions of an agent that a device keeps to go back to: the last, and the one before it
ROLLOUT_AGENTS_MAX = 1_024  # agents of one device that rollouts have brought
ROLLOUT_JOURNAL_BYTES_MAX = 64 * KIB  # what a device remembers of one agent
ROLLOUT_FAULTS_MAX = 5  # traps of an agent on trial: the fifth ends it, as it opens its breaker
ROLLOUT_RETRY_S = 2.0  # before what could not be fetched or kept is tried again, at first
ROLLOUT_RETRY_S_MAX = 300.0  # and at most: a disk that is full stays so for a while
ROLLOUT_TRIES = 3  # in vain, in a row: then a device says that it failed, and goes on trying
ROLLOUT_ROWS_MAX = 64  # agents of one device in its reported state that rollouts have brought
ROLLOUT_SILENT_S = 600.0  # a device that is there and says nothing of a rollout for so long counts as silent
ROLLOUT_HEARD_S = 150.0  # a device whose status came within is there: two and a half of its longest silences
ROLLOUT_ADVANCE_MAX = 1_000  # devices of one command: 64 KiB in the log; a larger wave takes some
ROLLOUT_PIECE_BYTES = 256 * KIB  # an operator brings an agent file in pieces of this size
ROLLOUT_UPLOADS_MAX = 8  # agent files that operators bring at one time
ARTEFACT_SPREAD_S = 1.5  # who fetches with many others begins to ask after a half to one and a half of it: one asks first, all listen
ARTEFACT_QUIET_S = 0.3  # and once what others asked for has stopped coming for one to three times this
ARTEFACT_AGAIN_S = 1.0  # a chunk that went to all who listen is not sent again within: requests cross it on the way
ROLLOUT_UPLOAD_S = 120.0  # an upload that got no piece for so long is dropped
BACKUP_BYTES_MAX = 64 * MIB  # a fleet's keys and its controller's log, compressed: a log is compacted at some MiB
BACKUP_FILES_MAX = 20_000  # two for each device that ever joined, and then some
BACKUP_LOG_BYTES_MAX = 48 * MIB  # of the controller's raft.db in one: it goes through the control socket

# --- issue 4: the fleet in the cell's state --------------------------------------------------------------------------
CELL_TOKENS_MAX = 1_024  # join tokens kept; revoked, used up and expired ones go first, the oldest of them before
CELL_TOKEN_USES_MAX = 8_192  # devices that joined by the tokens kept: twice as many as a cell can have
TOKEN_USES_MAX = 10_000  # devices that one token is made for
TOKEN_NAMES_BYTES_MAX = 512  # labels and grants of one token together: 25 of 20 bytes
LABELS_PER_DEVICE_MAX = 32  # labels of one device
LABELS_BYTES_MAX = 512  # labels of one device together: 32 of 14 bytes, or 10 long ones
CELL_ROLLOUTS_MAX = 256  # rollouts kept; the oldest that ended and that no device needs go first
CELL_ROLLOUTS_BYTES_MAX = 3_584 * KIB  # plans, orders and device ids of all rollouts kept: 130 of 1,000 devices
CELL_ROOTS_MAX = 16  # rotations of the fleet's root: a root holds for years, and every device must walk all of them
ROOT_ROTATION_BYTES_MAX = 4 * KIB  # two certificates and two signatures are 2 KiB

# --- issue 4: token and join
TOKEN_BROKERS_MAX = 4  # of one token: it is pasted, and shown as a QR code; the answer brings all of them
TOKEN_URL_CHARS_MAX = 128  # a scheme, a host name, a port
TOKEN_CHARS_MAX = 1_024  # four long URLs; a QR code of version 25 holds 1,273 bytes at its lowest level
JOIN_REQUEST_BYTES_MAX = 16 * KIB  # an inventory with every text at its bound takes 7
JOIN_ANSWER_BYTES_MAX = 2 * ROSTER_BYTES_MAX + 128 * KIB  # the first roster and the newest, certificates, keys
JOIN_TEXT_CHARS_MAX = 128  # of one text of the inventory
JOIN_REASON_CHARS_MAX = 512  # why a request is refused: an error text that a person reads
JOIN_DELEGATES_MAX = 16  # accelerators of one device
JOIN_LABELS_MAX = 32  # labels of one device
JOIN_LABEL_CHARS_MAX = 128  # of one "key=value"
JOIN_PUBLISHERS_MAX = 64  # keys whose agents a new device trusts
JOIN_WAITING_MAX = 1_024  # requests that wait to be opened; what comes past that is asked again by its device
JOIN_PENDING_MAX = 1_000  # requests that wait for a person; the oldest is not thrown out: a flood must not hide it
JOIN_PENDING_S_MAX = 7 * 86_400.0  # for so long: a person who was away for a week asks for the device anew
JOIN_REFUSALS_MAX = 32  # of who holds no token, told so, in one batch: 160 a second; the others hear nothing
JOIN_ANSWERS_MAX = 8  # on their way to the broker at one time: 4 MB of the largest rosters
JOIN_BATCH_S = 0.2  # joins of so long become one roster
JOIN_BATCH_MAX = 256  # joins of one roster: 200 KB more of it, and 0.1 s of signatures
JOIN_SEEN_MAX = 16_384  # devices remembered as seen, four cells of the largest size
JOIN_ASK_S = 2.0  # a device asks again, with the same question, after so long; doubled up to
JOIN_ASK_S_MAX = 30.0  # this: 200 devices that wait for a controller ask 7 times a second
JOIN_WAIT_S = 120.0  # what `edgeswarm join` waits for a controller that may be restarting
JOIN_APPROVAL_S = 86_400.0  # and for a person
JOIN_SEEN_S = 30.0  # after its certificate is there, until it is seen with it
JOIN_FILE_BYTES_MAX = 8 * KIB  # a token's file, or join.toml
JOIN_REUSE_S = 600  # a certificate this young is given once more to the device that asks again
ISSUED_LINE_BYTES_MAX = 512  # one line of issued.jsonl
ISSUED_BYTES_MAX = 64 * MIB  # all of it: 400,000 certificates, a year of 10,000 devices; then a half goes
DEVICE_DAYS = 30  # a device's certificate; renewed from day 20 on
TOKEN_TTL_S_MAX = 366 * 86_400  # a token that is valid for longer is a password
BROKER_JOIN_CONNECTIONS_MAX = 1_024  # newcomers at one time: five times what the figures are shown for
BROKER_JOIN_PACKET_BYTES_MAX = 2 * MIB  # an answer holds a roster and certificates
BROKER_JOIN_QUEUE_BYTES = 4 * MIB  # waiting for one newcomer, or for the bridge: 1,000 requests of 4 KiB
BROKER_JOIN_MEMORY_BYTES_MAX = 64 * MIB  # strangers reach it: what they fill is theirs alone
BROKER_GUARD_S = 30.0  # between two looks at the broker, its certificates and its revocation list
BROKER_REFRESH_S = 3_600.0  # between two looks of a broker that runs without its controller
BROKER_RENEW_DAYS = 60  # a server's certificate is renewed so long before it ends
BROKER_CRL_DAYS = 30  # age at which the revocation list is signed anew, though it holds for years
BROKER_REVOKED_DAYS = 800  # a revoked certificate leaves the list after that: all of ours have ended by then
BROKER_PROBE_S = 5.0  # one answer of the broker to a probe, on a loaded SD-card machine
BROKER_PROBE_SILENCE_S = 0.4  # nothing came in so long: it was not delivered
BROKER_RESTART_S_MAX = 30.0  # between two starts of a mosquitto that ends by itself; doubles from 0.5 s

# --- issue 4: an upgrade of the supervisor --------------------------------------------------------------------------
WEBHOOK_LEAVE_S = 1.0  # a request that is under way when the supervisor hands over; most are answered by then
UPGRADE_REST_S = 10.0  # until nobody is being started, swapped or asked; then the upgrade is refused, not the agents
UPGRADE_ASKS_S = 2.0  # until rows that programs ask about are answered; then they are told to ask again
UPGRADE_CHECK_S = 60.0  # the self-check of another version: Python starts in 5 s on the smallest board, under load in 30
UPGRADE_START_S = 60.0  # from the exec until the new version serves; then the old one takes over again
UPGRADE_HEALTHY_S = 30.0  # a new version that served so long without a fault of its own stays
UPGRADE_S_MAX = 3_600.0  # the longest that either may be set to
UPGRADE_PROGRAM_ARGUMENTS_MAX = 64  # words of the command that starts another version, 4 KiB each at most
HANDOVER_HEADER_BYTES_MAX = 1 * MIB  # command, environment and descriptors of the one who leaves: Linux allows 2 MiB
HANDOVER_BYTES_MAX = 512 * MIB  # the state: queues and frames of all agents, mostly a few hundred KiB
