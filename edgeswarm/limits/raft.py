"""Bounds of the replicated log: its messages and members, its store, and what is kept beside it."""

from edgeswarm.limits.units import KIB, MIB

# --- raft -------------------------------------------------------------------------------------------------------------
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

# --- raft: members ----------------------------------------------------------------------------------------------------
RAFT_CHANGES_MAX = 64  # single changes in one change of members: 5 voters out, 5 in, and room for learners
RAFT_CHANGE_CONTEXT_BYTES_MAX = 64 * KIB  # a signed roster of 50 entries at 1 KiB rides along with the change

# --- raft store, offline queue, artefacts -----------------------------------------------------------------------------
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
ARTEFACT_SPREAD_S = 1.5  # who fetches with many others waits a half to one and a half of it: one asks, all listen
ARTEFACT_QUIET_S = 0.3  # and once what others asked for has stopped coming for one to three times this
ARTEFACT_AGAIN_S = 1.0  # a chunk that went to all who listen is not sent again within: requests cross it on the way
