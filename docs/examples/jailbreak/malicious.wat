;; The malicious one: answers the mean as the other does, until its first input names an attack.
;; These are all the means that wasm has: its own memory, table, stack and time.  Each must end in a fault of its own.
(module
  (type $nothing (func))
  (type $number (func (param i32)))
  (memory (export "memory") 2 64)
  (table $table 4 funcref)
  (elem (i32.const 1) $never)
  (func $never (param i32))
  (func $deeper (param i32) (result i32)
    (i32.add (call $deeper (i32.add (local.get 0) (i32.const 1))) (local.get 0)))
  (func (export "run") (local $attack i32)
    (local.set $attack (i32.trunc_sat_f32_u (f32.load (i32.const 0))))
    (block $mean (block $divide (block $loop (block $grow (block $type (block $null (block $table_end
    (block $stack (block $copy (block $write (block $read
      (br_table $mean $read $write $copy $stack $table_end $null $type $grow $loop $divide $mean (local.get $attack)))
      ;; 1 read another agent's memory: past the end of its own
      (drop (i32.load (i32.const 0x7ffffff0))) (return))
      ;; 2 write there
      (i32.store (i32.const -8) (i32.const 0x41414141)) (return))
      ;; 3 copy a megabyte from there
      (memory.copy (i32.const 0) (i32.const 131000) (i32.const 1048576)) (return))
      ;; 4 smash the stack
      (drop (call $deeper (i32.const 1))) (return))
      ;; 5 call past the end of the table
      (call_indirect (type $nothing) (i32.const 4000000)) (return))
      ;; 6 call what is not there
      (call_indirect (type $nothing) (i32.const 3)) (return))
      ;; 7 call a function by another type
      (call_indirect (type $nothing) (i32.const 1)) (return))
      ;; 8 take all memory: 62 pages more, or a fault
      (if (i32.eq (memory.grow (i32.const 62)) (i32.const -1)) (then (unreachable))) (return))
      ;; 9 never come back
      (loop $for_ever (br $for_ever)) (return))
      ;; 10 crash the processor
      (drop (i32.div_s (i32.const 0x80000000) (i32.const -1))) (return))
    (f32.store (i32.const 65536)
      (f32.mul (f32.const 0.5) (f32.add (f32.load (i32.const 0)) (f32.load (i32.const 4))))))
  (func (export "run_batch") (param i32) (unreachable)))
