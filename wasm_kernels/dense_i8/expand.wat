;; Rows of whole numbers, a byte each -> rows of float32: factor * (q - zero point).  vectors: of 4 values in a row.
;; $r: the record {factor, ..., 1.5 * 2^23 + zero point, ..., the bits of 1.5 * 2^23}, a vector each.
(func $@{name} (param $x i32) (param $rows i32) (param $r i32) (param $y i32)
  (local $xp i32) (local $yp i32) (local $ye i32)
  (loop $row
    (local.set $xp (local.get $x))
    (local.set $yp (local.get $y))
    (local.set $ye (i32.add (local.get $y) (i32.const @{16 * vectors})))
    (loop $vector
      (v128.store (local.get $yp) (f32x4.mul (v128.load (local.get $r)) (f32x4.sub
        (i32x4.add (v128.load offset=96 (local.get $r)) (i32x4.extend_low_i16x8_s (i16x8.extend_low_i8x16_s
          (v128.load32_zero (local.get $xp)))))
        (v128.load offset=48 (local.get $r)))))
      (local.set $xp (i32.add (local.get $xp) (i32.const 4)))
      (br_if $vector (i32.lt_u (local.tee $yp (i32.add (local.get $yp) (i32.const 16))) (local.get $ye))))
    (local.set $x (i32.add (local.get $x) (i32.const @{x_stride})))
    (local.set $y (i32.add (local.get $y) (i32.const @{y_stride})))
    (br_if $row (local.tee $rows (i32.sub (local.get $rows) (i32.const 1)))))
)
