"""Bounds of a device's upkeep: its audit log and keys, its service, its upgrades."""

from edgeswarm.limits.cell import ROSTER_BYTES_MAX
from edgeswarm.limits.units import KIB, MIB

# --- audit, rotation, revocation --------------------------------------------------------------------------------------
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

# --- installation and the service manager -----------------------------------------------------------------------------
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

# --- an upgrade of the supervisor -------------------------------------------------------------------------------------
WEBHOOK_LEAVE_S = 1.0  # a request that is under way when the supervisor hands over; most are answered by then
UPGRADE_REST_S = 10.0  # until nobody is being started, swapped or asked; then the upgrade is refused, not the agents
UPGRADE_ASKS_S = 2.0  # until rows that programs ask about are answered; then they are told to ask again
UPGRADE_CHECK_S = 60.0  # the self-check of another version: Python starts in 5 s on the smallest board, loaded in 30
UPGRADE_START_S = 60.0  # from the exec until the new version serves; then the old one takes over again
UPGRADE_HEALTHY_S = 30.0  # a new version that served so long without a fault of its own stays
UPGRADE_S_MAX = 3_600.0  # the longest that either may be set to
UPGRADE_PROGRAM_ARGUMENTS_MAX = 64  # words of the command that starts another version, 4 KiB each at most
HANDOVER_HEADER_BYTES_MAX = 1 * MIB  # command, environment and descriptors of the one who leaves: Linux allows 2 MiB
HANDOVER_BYTES_MAX = 512 * MIB  # the state: queues and frames of all agents, mostly a few hundred KiB
