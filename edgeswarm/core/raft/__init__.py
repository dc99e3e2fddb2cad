"""Raft, as a pure core: opaque bytes go in on one voter and come out on all of them, in one order.

It never reads a clock, draws a random number of its own, opens a file or sends a byte.  Ticks, messages and wishes go
in; a Ready comes out that says what to store, send and apply.  This page is the manual; rawnode.py is the interface.

The loop
    node = RawNode(Config(id=3, storage=storage, rng=random.Random(seed), election_ticks=10, heartbeat_ticks=1))
    on every tick:          node.tick()
    on every message:       node.step(message)          # RemoteError: count it, drop it, go on
    on every wish:          node.propose(data)          # ProposalDroppedError: try elsewhere, or later
    after each of them, until has_ready() says no:
        ready = node.ready()
        now, later = ready.split()
        1. send(now)
        2. store(ready.hard_state, ready.entries, ready.snapshot), and let the storage answer reads of them
        3. send(later)
        4. apply(ready.snapshot), apply(ready.committed_entries); apply_conf_change() for each change of members
           serve ready.read_states whose index is applied
        5. node.advance()

The contract of the loop
  - 2 before 3.  Votes and acknowledgements promise what 2 stores.  A voter that sends one and then forgets can elect
    two leaders in one term, or lose what was committed.  With must_sync or a snapshot, to store means that the disk has
    it; without, only the commit index has moved, and a crash may lose it.
  - Entries replace whatever is stored at their indexes and after.
  - 4 in the order given, once each.  After a restart Config.applied says where the state machine stands.
  - 5 ends a Ready; messages may be stepped before it, ready() may not be called.  Only advance() lets a node count its
    own vote and its own copy of an entry.
  - `step` gets a message only if its envelope proved that `message.sender` sent it.
  - A cell is born with a snapshot: index 1, term 1, its first voters.  A newcomer starts with nothing (an empty
    ConfState) and learns from a snapshot who is there; changes of members alone would tell it only who came later.
  - When a Ready says snapshot_wanted, the driver makes one: a member waits for it.
  - The driver tells of snapshots what it knows (report_snapshot): until then, or an answer, their receiver gets only
    heartbeats.
  - One raft number is one life: a voter that has lost its disk comes back under a new one.

What the core promises, if messages are lost, doubled, reordered and delayed, and nodes crash and come back with their
disk (Raft paper, Figure 3)
  - election safety: at most one leader a term.  leader append-only: a leader never replaces its own entries.
  - log matching: two logs with the same index and term agree up to there.
  - leader completeness: what is committed is in the log of every later leader.
  - state machine safety: no two nodes apply different entries at one index.
  - reads: a ReadState's index is at least that of every entry committed when read_index() was called.
  - bounds: what a peer sends never reaches an assert, and no queue here grows by what peers send but for the messages
    of one Ready; the bounds are in limits/.
While a majority can talk, one of them leads within a few election timeouts and goes on to.

What it leaves out
  - who a sender is, and that a vote was signed: wire/envelope.py, member.py.
  - what entries mean, snapshots of the state machine, when to compact: core/cell.
  - Byzantine voters: a voter that signs two votes, or a leader that lies, breaks all of the above.
  - clients that repeat a proposal after an answer was lost: the state machine knows them by session.

Where to find what (paper: Ongaro and Ousterhout 2014; thesis: Ongaro 2014)
  rawnode.py       the interface, Ready                        config.py       settings, small records, errors
  raft.py          state, ticks, dispatch (paper 5.1)          admit.py        what a peer may send
  election.py      paper 5.2, 5.4.1; thesis 6.2, 9.6           replication.py  paper 5.3, 5.4.2, 7; thesis 10.2
  proposals.py     what enters the log                         reads.py        thesis 6.4
  transfer.py      thesis 3.10                                 membership.py   thesis 4
  log.py           the log, stored and not yet stored          storage.py      what the core reads; one in memory
  tracker.py       followers as the leader sees them           quorum.py       majorities
  confchange.py, change.py   changes of members                async_storage.py  etcd's other way to store
Dispatch is a table by state and type (raft.py); each handler is a function of (raft, message) that changes `raft` and
queues messages.  The behaviour follows etcd-io/raft, whose transcripts are played against it (tests/core/raft).
"""
