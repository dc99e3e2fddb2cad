;; `count` places of `values` i8 each -> i16, one behind the other.  Up to 31 bytes behind the last are overwritten.
;; A round of the first loop does 128 of them: one of 16 costs as much for the loop's head as for what it does.
(func $@{name} (param $x i32) (param $count i32) (param $to i32) (local $end i32) (local $most i32)
  (local.set $count (i32.mul (local.get $count) (i32.const @{values})))
  (local.set $end (i32.add (local.get $to) (i32.shl (local.get $count) (i32.const 1))))
  (local.set $most (i32.add (local.get $to) (i32.shl (i32.and (local.get $count) (i32.const -128)) (i32.const 1))))
  (if (i32.lt_u (local.get $to) (local.get $most)) (then
    (loop $copy
;;@ for i in 0..8
;;@ use sixteen
;;@ end
      (local.set $x (i32.add (local.get $x) (i32.const 128)))
      (br_if $copy (i32.lt_u (local.tee $to (i32.add (local.get $to) (i32.const 256))) (local.get $most))))))
  (if (i32.lt_u (local.get $to) (local.get $end)) (then
    (loop $rest
;;@ use sixteen i=0
      (local.set $x (i32.add (local.get $x) (i32.const 16)))
      (br_if $rest (i32.lt_u (local.tee $to (i32.add (local.get $to) (i32.const 32))) (local.get $end))))))
)
;;@ define sixteen
      (v128.store offset=@{32 * i} (local.get $to) (v128.load8x8_s offset=@{16 * i} (local.get $x)))
      (v128.store offset=@{32 * i + 16} (local.get $to) (v128.load8x8_s offset=@{16 * i + 8} (local.get $x)))
;;@ end
