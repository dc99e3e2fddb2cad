;; Sums of $count 8-bit numbers, at `sums` -> their mean in the steps of y, as TFLite's MEAN: less `less` (the zero points
;; read), scaled, + zero.  `vectors` of 16 values.
(func $@{name} (param $count i32) (param $y i32) (local $end i32) (local $s i32)
;;@ for k in 0..4
  (local $a@{k} v128)
;;@ end
  (local.set $end (i32.add (local.get $y) (i32.const @{16 * vectors})))
  (local.set $s (i32.const @{sums}))
  (loop $next
;;@ for k in 0..4
    (local.set $a@{k} (i32x4.sub (v128.load offset=@{16 * k} (local.get $s)) (i32x4.splat (i32.const @{less}))))
;;@ use fixed_scale a=$a@{k}
;;@ end
    (v128.store (local.get $y) (i8x16.narrow_i16x8_s
      (i16x8.add_sat_s (i16x8.narrow_i32x4_s (local.get $a0) (local.get $a1)) (i16x8.splat (i32.const @{zero})))
      (i16x8.add_sat_s (i16x8.narrow_i32x4_s (local.get $a2) (local.get $a3)) (i16x8.splat (i32.const @{zero})))))
    (local.set $s (i32.add (local.get $s) (i32.const 64)))
    (br_if $next (i32.lt_u (local.tee $y (i32.add (local.get $y) (i32.const 16))) (local.get $end))))
)
