"""What a cell agrees on: commands from the log, applied one by one, the same on every device.

`commands` says what can be asked, `state.CellState` what follows, `changes` what the app reacts to, `snapshot` how a
state travels, `fencing` who may run what.  docs/swarm-state.md tells the story.
"""
