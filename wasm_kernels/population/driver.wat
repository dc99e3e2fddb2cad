;; Ticks a table of agents, each an instance with a memory of its own, in one call.
;; Memory: at 0 the agent under way (first: the one to begin with), at 4 where to end, at 8 how many are through.
;; In memory, not in globals, so that the thread that keeps the deadlines sees progress while this runs.
;; The check of the epoch stands in the loop's head, where `through` is past `under way`: a trap there is nobody's.
;; `run_batch` and a count of rows are the kernel ABI's, by which a build jail knows a kernel; here it does nothing.
(module
  (type $agent (func))
  (memory (export "memory") 1 1)
  (table $agents (export "agents") 0 funcref)
  (func (export "run") (local $i i32) (local $end i32)
    (local.set $i (i32.load (i32.const 0)))
    (local.set $end (i32.load (i32.const 4)))
    (if (i32.ge_u (local.get $i) (local.get $end)) (then (return)))
    (loop $next
      (i32.store (i32.const 0) (local.get $i))
      (call_indirect $agents (type $agent) (local.get $i))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (i32.store (i32.const 8) (local.get $i))
      (br_if $next (i32.lt_u (local.get $i) (local.get $end)))))
  (func (export "run_batch") (param i32))
  (func (export "idle"))
)
