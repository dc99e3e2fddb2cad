"""Delegates: somebody else's native code that computes a model in a jail of its own, where that is faster.

`runtimes`  which packages are installed, and what identifies them
`hosts`     zygotes that have a runtime loaded, made when the first jail wants one and ended with the last
`contest`   kernel and delegates on the same rows: who answers rightly, and how fast
`verdicts`  what came of it, kept on disk until the file, the machine or a delegate is another one
`manager`   who gets how much of one accelerator
The kernel in its `strict` jail stays there in any case: every failure of a delegate falls back to it.
"""
