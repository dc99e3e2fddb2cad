;; The mean of `rows` stretches of `values` 8-bit numbers one behind the other, `row` bytes apart, to one value at $y, scaled
;; as in requantise.wat.  What lies behind a stretch is masked; sums of pairs of pairs are 32-bit numbers.
(func $@{name} (param $x i32) (param $y i32) (local $p i32) (local $end i32) (local $n i32) (local $sum v128)
  (local $a v128)
;;@ define add
    (local.set $sum (i32x4.add (local.get $sum)
      (i32x4.extadd_pairwise_i16x8_s (i16x8.extadd_pairwise_i8x16_s (local.get $a)))))
;;@ end
  (local.set $n (i32.const @{rows}))
  (loop $row
    (local.set $p (local.get $x))
;;@ if values >= 16
    (local.set $end (i32.add (local.get $x) (i32.const @{values // 16 * 16})))
    (loop $next
      (local.set $a (v128.load (local.get $p)))
;;@ use add
      (br_if $next (i32.lt_u (local.tee $p (i32.add (local.get $p) (i32.const 16))) (local.get $end))))
;;@ end
;;@ if values % 16
    (local.set $a (v128.and (v128.load (local.get $p)) (i8x16.lt_u
      (v128.const i8x16 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15) (i8x16.splat (i32.const @{values % 16})))))
;;@ use add
;;@ end
    (local.set $x (i32.add (local.get $x) (i32.const @{row})))
    (br_if $row (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
  (local.set $sum (i32x4.add (local.get $sum)
    (i8x16.shuffle 8 9 10 11 12 13 14 15 0 1 2 3 4 5 6 7 (local.get $sum) (local.get $sum))))
  (local.set $sum (i32x4.add (local.get $sum)
    (i8x16.shuffle 4 5 6 7 0 1 2 3 12 13 14 15 8 9 10 11 (local.get $sum) (local.get $sum))))
  (local.set $sum (i32x4.sub (local.get $sum) (i32x4.splat (i32.const @{less}))))
;;@ use fixed_scale a=$sum
  (local.set $a (i16x8.add_sat_s (i16x8.narrow_i32x4_s (local.get $sum) (local.get $sum))
    (i16x8.splat (i32.const @{zero}))))
  (v128.store8_lane 0 (local.get $y) (i8x16.narrow_i16x8_s (local.get $a) (local.get $a)))
)
