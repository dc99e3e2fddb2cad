;; `count` places of `values` i8 each -> i16, one behind the other.  Up to 31 bytes behind the last are overwritten.
(func $@{name} (param $x i32) (param $count i32) (param $to i32) (local $end i32) (local $v v128)
  (local.set $end (i32.add (local.get $to) (i32.mul (local.get $count) (i32.const @{2 * values}))))
  (loop $copy
    (local.set $v (v128.load (local.get $x)))
    (v128.store (local.get $to) (i16x8.extend_low_i8x16_s (local.get $v)))
    (v128.store offset=16 (local.get $to) (i16x8.extend_high_i8x16_s (local.get $v)))
    (local.set $x (i32.add (local.get $x) (i32.const 16)))
    (br_if $copy (i32.lt_u (local.tee $to (i32.add (local.get $to) (i32.const 32))) (local.get $end))))
)
