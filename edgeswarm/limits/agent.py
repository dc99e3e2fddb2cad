"""Bounds of one device's own work: files, agent files, kernels, jails, streams, the supervisor."""

from edgeswarm.limits.units import KIB, MIB

# --- schema -----------------------------------------------------------------------------------------------------------
TEXT_CHARS_MAX = 4_096  # any text value that states no length of its own: a paragraph, not a document
LIST_ITEMS_MAX = 65_536  # any list that states no length of its own: one item per value of a wide layer
FAULTS_MAX = 100  # faults listed for one file: past this a person fixes the first and looks again

# --- agent file -------------------------------------------------------------------------------------------------------
AF_HEADER_BYTES_MAX = 1 * MIB  # a YAML header is a few KB; 1 MiB holds 10,000 golden labels and still parses in < 1 s
AF_SECTIONS_MAX = 16  # four kinds exist today; room to grow, and small enough to check by eye
AF_SECTION_BYTES_MAX = 256 * MIB  # the largest net of the benchmarks is 4 MiB; what a Pi Zero (512 MB) could still map
AF_EXPANSION_RATIO_MAX = 200  # zstd of f32 weights reaches ~1.2x, of zeros ~10,000x: what is beyond is a bomb

AF_YAML_DEPTH_MAX = 16  # tables and lists inside each other; the format itself needs 5
AF_YAML_NODES_MAX = 200_000  # keys and values of one header: three vectors of 65,536 values, 30 MB while read
AF_TEXT_SECTIONS_BYTES_MAX = 1 * MIB  # sections of a file without a table, all together: placeholders, not weights
AF_READ_BYTES = 1 * MIB  # one read of an agent file; what is held of a section nobody wants
AF_SIGNATURE_BYTES_MAX = 1 * KIB  # a COSE_Sign1 with one Ed25519 signature and a key id is some 100 bytes
AF_ZSTD_WINDOW_BYTES_MAX = 8 * MIB  # what RFC 8878 3.1.1.1.2 asks every decoder to offer; allocated while decoding

# --- kernel ABI -------------------------------------------------------------------------------------------------------
KERNEL_WASM_BYTES_MAX = 16 * MIB  # generated kernels are 6-50 KB; hand-made ones with tables stay below 16 MiB
KERNEL_LAYOUT_BYTES_MAX = 64 * KIB  # JSON of the custom section
KERNEL_MEMORY_BYTES_MAX = 512 * MIB  # `resources.limits.memory_mb` of the specification's agent class
KERNEL_WIDTH_MAX = 262_144  # values of one input or output row: 224 x 224 x 3 has 150,528; 1 MiB of f32 in a ring
LAYER_WIDTH_MAX = 65_536  # values that a dense layer reads or writes: sums of 8-bit products stay within 32 bits
KERNEL_BATCH_MAX = 4_096  # rows of one call: past this nothing gets faster, and memory grows
LAYERS_MAX = 64  # of one model; the deepest of the benchmarks has 10, and code size grows with every one
SHORTCUT_LAYERS_MAX = 1_024  # Cascade training adds a layer for each neuron; a hundred of them is a long training
GRAPH_NODES_MAX = 4_096  # operators of one graph: a cascade of 1,000 neurons has 2,000, MobileNet about 30
GRAPH_READS_MAX = 16_384  # tensors that all nodes read, four a node of GRAPH_NODES_MAX: each may be a copy in the code
GRAPH_STRUCTURE_BYTES_MAX = 1_048_576  # JSON of a structure: 4,096 nodes and their tensors are some 500 KB
GRAPH_AXES_MAX = 4  # axes of one tensor, without the batch: height, width and channels, and one to spare
GRAPH_TENSOR_VALUES_MAX = 4_194_304  # values of one tensor of one row: 16 MiB; MobileNetV2 of 224 x 224 has 1,225,824
GRAPH_MACS_MAX = 1 << 34  # of one row, with values under pooling windows: 4 times ResNet-50's; a second of a PC's core
WINDOW_SIDE_MAX = 4_096  # kernel, stride or dilation of a convolution or pooling: long 1-D filters have 1,000
KERNEL_WASM_ITEMS_MAX = 65_536  # sections, types, functions or exports of one module: a check stays below a second
CALIBRATION_ROWS_MIN = 8  # rows that say what range a net's values have; fewer are an example, not data
CALIBRATION_VALUES_MAX = 1 << 23  # rows times the widest layer: 64 MiB of float64, and as much for every layer
MODEL_FILE_BYTES_MAX = 512 * MIB  # a .npz or JSON of weights: text of the largest section is about twice its size
FANN_FILE_BYTES_MAX = 128 * MIB  # a .net file, 34 bytes a connection: that of 512-1024-1024-256 has 61 MiB
FANN_DECIMAL_POINT_MAX = 30  # fixed-point nets hold 32-bit numbers: 2^30 is the largest power that leaves a sign
FANN_CASCADE_CHOICES_MAX = 1_024  # activations or steepnesses that Cascade training tries: libfann has 10 and 4
FANN_SPARSE_RATIO_MAX = 100  # weights of the dense layers for each connection of a sparse net: beyond, mostly zeros

# --- jail -------------------------------------------------------------------------------------------------------------
JAIL_AGENTS_MAX = 128  # slots in one jail
JAILS_MAX = 1_024  # jails of one supervisor
RING_BYTES_DEFAULT = 1 * MIB  # per jail, both directions together
RING_BYTES_MAX = 64 * MIB  # a batch of 256 rows of 65,536 values, or of 64 of the widest, is one
CALL_DEADLINE_MS_DEFAULT = 1_000  # a kernel call that takes longer is interrupted
CALL_DEADLINE_MS_MAX = 60_000  # past a minute an agent is a batch job, and holds its whole jail up
JAIL_READY_MS_MAX = 20_000  # from spawn to READY on the slowest board with a cold cache
ZYGOTE_MESSAGE_BYTES_MAX = 256 * KIB  # JSON of 128 agents at about 1 KB each, with room
CWASM_BYTES_MAX = 64 * MIB  # compiled code of one kernel: a generated one is 30-150 KB, a 16 MiB module about 50 MiB
CWASM_CACHE_BYTES_MAX = 256 * MIB  # compiled kernels kept on disk; the longest unused go first
COMPILE_MS_DEFAULT = 30_000  # a generated kernel takes 10-100 ms on a PC, ten times that on a Pi Zero
KERNEL_LOG_RECORDS_MAX = 16_384  # searched for a forbidden call: more than fit into the ring of a kernel log
ZYGOTE_ORDERS_MAX = 32  # sent and not answered: what waits in its socket is forked well within JAIL_READY_MS_MAX
ZYGOTE_STARTS_MAX = 5  # zygotes in a row that die before they are ready: then something is wrong with the machine

# --- streams ----------------------------------------------------------------------------------------------------------
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

# --- supervisor -------------------------------------------------------------------------------------------------------
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

# --- command line -----------------------------------------------------------------------------------------------------
NPY_HEADER_BYTES_MAX = 4 * KIB  # of a table in .npy: numpy writes 128 bytes, and believes a length of up to 4 GiB
TABLE_LINE_BYTES_MAX = 8 * MIB  # a row of `agent run --input`: the widest, 25 characters a value, is 6.6 MB
