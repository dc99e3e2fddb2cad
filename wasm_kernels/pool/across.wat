;; The mean of `rows` stretches of `values` float32 one behind the other, `row` bytes apart, to one value at $y.
;; Four sums of four lanes, lane by lane, at last (0+2)+(1+3).  What lies behind a stretch is masked.
(func $@{name} (param $x i32) (param $y i32) (local $p i32) (local $end i32) (local $n i32) (local $a0 v128)
  (local $a1 v128) (local $a2 v128) (local $a3 v128)
  (local.set $n (i32.const @{rows}))
  (loop $row
    (local.set $p (local.get $x))
;;@ if values >= 16
    (local.set $end (i32.add (local.get $x) (i32.const @{values // 16 * 64})))
    (loop $four
;;@ for i in 0..4
      (local.set $a@{i} (f32x4.add (local.get $a@{i}) (v128.load offset=@{16 * i} (local.get $p))))
;;@ end
      (br_if $four (i32.lt_u (local.tee $p (i32.add (local.get $p) (i32.const 64))) (local.get $end))))
;;@ end
;;@ for i in 0..values % 16 // 4
    (local.set $a@{i} (f32x4.add (local.get $a@{i}) (v128.load offset=@{16 * i} (local.get $p))))
;;@ end
;;@ if values % 4
    (local.set $a3 (f32x4.add (local.get $a3) (v128.and (v128.load offset=@{values % 16 // 4 * 16} (local.get $p))
      (v128.const i32x4 -1 @{0 - (values % 4 > 1)} @{0 - (values % 4 > 2)} 0))))
;;@ end
    (local.set $x (i32.add (local.get $x) (i32.const @{row})))
    (br_if $row (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
  (local.set $a0 (f32x4.add (f32x4.add (local.get $a0) (local.get $a1)) (f32x4.add (local.get $a2) (local.get $a3))))
  (local.set $a0 (f32x4.add (local.get $a0)
    (i8x16.shuffle 8 9 10 11 12 13 14 15 0 1 2 3 4 5 6 7 (local.get $a0) (local.get $a0))))
  (local.set $a0 (f32x4.add (local.get $a0)
    (i8x16.shuffle 4 5 6 7 0 1 2 3 12 13 14 15 8 9 10 11 (local.get $a0) (local.get $a0))))
  (f32.store (local.get $y) (f32.div (f32x4.extract_lane 0 (local.get $a0)) (f32.const @{rows * values})))
)
