;; `values` bytes from $x to $to, each xor one of $turn: what kept weights multiply.  What fills the last vector may be
;; anything, for its weights are 0.
(func $@{name} (param $x i32) (param $to i32) (param $turn v128) (local $end i32)
  (local.set $end (i32.add (local.get $to) (i32.const @{values})))
  (loop $copy
    (v128.store (local.get $to) (v128.xor (v128.load (local.get $x)) (local.get $turn)))
    (local.set $x (i32.add (local.get $x) (i32.const 16)))
    (br_if $copy (i32.lt_u (local.tee $to (i32.add (local.get $to) (i32.const 16))) (local.get $end))))
)
