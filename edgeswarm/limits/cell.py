"""Bounds of the cell's replicated state, and a device in its cell."""

from edgeswarm.limits.units import KIB, MIB

# --- cell state -------------------------------------------------------------------------------------------------------
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
AGGREGATE_WIDTH_MAX = 65_536  # values of one answer, as Python's floats 2 MB: LAYER_WIDTH_MAX, classes of any net

# --- the fleet in the cell's state ------------------------------------------------------------------------------------
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

# --- a device in its cell ---------------------------------------------------------------------------------------------
PROPOSALS_WAITING_MAX = 10_000  # proposals of one device that wait for their entry: 5 s of a leader at its limit
CALLS_WAITING_MAX = 4_096  # questions of one device that wait for an answer
CALLS_SERVED_MAX = 2_048  # questions of others that a device answers at one time; beyond, it says "busy"
ROSTERS_KEPT_MAX = 16  # versions kept behind the current one: certificates cite the version they were made under
RAFT_SNAPSHOT_EVERY = 5_000  # entries between two snapshots of a voter: 3 s at a leader's limit, else days
SNAPSHOT_PIECE_BYTES = 128 * KIB  # one piece of a snapshot for a follower: fits into an inbox message
BATCH_ITEM_BYTES_MAX = 64 * KIB  # a message that shares an envelope with others; larger ones travel alone
BATCH_BYTES_MAX = 256 * KIB  # messages of one envelope, together

# --- streams in a cell ------------------------------------------------------------------------------------------------
STREAM_WAITING_ROWS_MAX = 4_096  # rows of one source that wait for its agent; the oldest go first
STREAM_WAITING_VALUES_MAX = 262_144  # the same in values: 8 MB as Python's floats, and four messages of any width
STREAM_EARLY_ROWS_MAX = 1_024  # rows of an agent that was opened before this device has noted its placement
STREAM_PARKED_MAX = 64  # messages of a device that the cell's table does not name (yet)
STREAM_PARKED_MS_MAX = 2_000  # ms they wait for the table: it follows the leader within a heartbeat
STREAM_BULK_BYTES = 16 * KIB  # a stream with larger messages goes over the second connection

# --- jobs on devices --------------------------------------------------------------------------------------------------
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
