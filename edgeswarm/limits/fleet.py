"""Bounds of the operator's side: controller, certificates, tokens, rollouts, index."""

from edgeswarm.limits.cell import ROSTER_BYTES_MAX
from edgeswarm.limits.units import KIB, MIB

# --- the controller and its operators ---------------------------------------------------------------------------------
FLEET_FOLLOW_S = 30.0  # an operator that follows something says every 10 s that it still does
FLEET_FOLLOWERS_MAX = 64  # of one controller: a console follows one or two things
FLEET_ROWS_MAX = 1_000  # in one message to a follower
FLEET_CALL_S = 60.0  # for one answer of the controller: a rollout's artefact spreads to the voters in it
BACKUP_BYTES_MAX = 64 * MIB  # a fleet's keys and its controller's log, compressed: a log is compacted at some MiB
BACKUP_FILES_MAX = 20_000  # two for each device that ever joined, and then some
BACKUP_LOG_BYTES_MAX = 48 * MIB  # of the controller's raft.db in one: it goes through the control socket

# --- broker and certificates ------------------------------------------------------------------------------------------
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

# --- index and view ---------------------------------------------------------------------------------------------------
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

# --- rollouts ---------------------------------------------------------------------------------------------------------
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
ROLLOUT_UPLOAD_S = 120.0  # an upload that got no piece for so long is dropped

# --- token and join ---------------------------------------------------------------------------------------------------
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
JOIN_PENDING_SPARE = 4  # more of one token than it has uses: a device that was set up anew has another key
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
ISSUED_BYTES_MAX = 8 * MIB  # all of it: 80,000 certificates, four times what 10,000 devices hold; then the ended go
DEVICE_DAYS = 30  # a device's certificate; renewed from day 20 on
TOKEN_TTL_S_MAX = 366 * 86_400  # a token that is valid for longer is a password
