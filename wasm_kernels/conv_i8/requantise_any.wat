;; i32 sums -> i8 for any multiplier, shift and sum: value by value, with the rounding of requantise.wat, in 64-bit whole
;; numbers.  For what the floats there cannot hold exactly, which packing marks in the record.
;; `once`: rounded once, halves up, as dense layers are.
;; $m: multipliers, and `shifts` bytes behind them shifts, i32 each; a shift above 0 is one to the left, and wraps.
(func $@{name} (param $x i32) (param $m i32) (param $r i32) (param $y i32) (param $places i32)
  (local $xp i32) (local $mp i32) (local $yp i32) (local $end i32) (local $s i32) (local $t i64) (local $half i64)
  (local $zero i32) (local $low i32) (local $high i32) (local $q i32)
  (local.set $zero (i32.load16_s offset=16 (local.get $r)))
  (local.set $low (i32.load8_s offset=32 (local.get $r)))
  (local.set $high (i32.load8_s offset=48 (local.get $r)))
  (loop $place
    (local.set $xp (local.get $x))
    (local.set $mp (local.get $m))
    (local.set $yp (local.get $y))
    (local.set $end (i32.add (local.get $y) (i32.const @{channels})))
    (loop $channel
      (local.set $s (i32.load offset=@{shifts} (local.get $mp)))
      (local.set $q (i32.load (local.get $xp)))
;;@ if once
      (local.set $half (i64.extend_i32_s (i32.sub (i32.const 31) (local.get $s))))
      (local.set $t (i64.extend_i32_s (i32.wrap_i64 (i64.shr_s
        (i64.add (i64.shl (i64.const 1) (i64.sub (local.get $half) (i64.const 1)))
          (i64.mul (i64.extend_i32_s (local.get $q)) (i64.load32_s (local.get $mp))))
        (local.get $half)))))
;;@ else
      (if (i32.gt_s (local.get $s) (i32.const 0)) (then
        (local.set $q (i32.shl (local.get $q) (local.get $s)))
        (local.set $s (i32.const 0))))
      (local.set $t (i64.shr_s (i64.add (i64.const 1073741824)
        (i64.mul (i64.extend_i32_s (local.get $q)) (i64.load32_s (local.get $mp)))) (i64.const 31)))
      (if (local.get $s) (then
        (local.set $half (i64.shl (i64.const 1) (i64.extend_i32_s (i32.sub (i32.const -1) (local.get $s)))))
        (local.set $t (i64.shr_s
          (i64.add (i64.add (local.get $t) (local.get $half)) (i64.shr_s (local.get $t) (i64.const 63)))
          (i64.extend_i32_s (i32.sub (i32.const 0) (local.get $s)))))))
;;@ end
      (local.set $t (i64.add (local.get $t) (i64.extend_i32_s (local.get $zero))))
      (local.set $q (select (local.get $low) (select (local.get $high) (i32.wrap_i64 (local.get $t))
        (i64.gt_s (local.get $t) (i64.extend_i32_s (local.get $high))))
        (i64.lt_s (local.get $t) (i64.extend_i32_s (local.get $low)))))
      (i32.store8 (local.get $yp) (local.get $q))
      (local.set $xp (i32.add (local.get $xp) (i32.const 4)))
      (local.set $mp (i32.add (local.get $mp) (i32.const 4)))
      (br_if $channel (i32.ne (local.tee $yp (i32.add (local.get $yp) (i32.const 1))) (local.get $end))))
    (local.set $x (i32.add (local.get $x) (i32.const @{y_step})))
    (local.set $y (i32.add (local.get $y) (i32.const @{channels})))
    (br_if $place (local.tee $places (i32.sub (local.get $places) (i32.const 1)))))
)
