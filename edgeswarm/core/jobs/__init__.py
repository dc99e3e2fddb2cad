"""What the leader decides about jobs, and what their authors need to write one down.

`graph` puts tasks in order, `board` says when to assign, to try again, to give up; `fanout` asks many agents one thing
and `aggregate` draws their answers together; `backoff` says how long to wait.  What has happened is the cell's to say
(`core/cell`); nothing here is replicated, and a new leader starts from the cell's state.
"""
