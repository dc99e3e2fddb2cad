;; `count` bytes, each with the bits of $turn turned over.  Up to 15 bytes behind the last are overwritten.
(func $@{name} (param $x i32) (param $count i32) (param $to i32) (param $turn i32) (local $end i32)
  (local.set $end (i32.add (local.get $to) (local.get $count)))
  (loop $copy
    (v128.store (local.get $to) (v128.xor (v128.load (local.get $x)) (i8x16.splat (local.get $turn))))
    (local.set $x (i32.add (local.get $x) (i32.const 16)))
    (br_if $copy (i32.lt_u (local.tee $to (i32.add (local.get $to) (i32.const 16))) (local.get $end))))
)
