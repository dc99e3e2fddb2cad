;; Rows of i8 -> rows of i16.  vectors: of 8 values in a row; what lies behind a row's last value goes along.
(func $@{name} (param $x i32) (param $rows i32) (param $y i32)
  (local $xp i32) (local $yp i32) (local $ye i32)
  (loop $row
    (local.set $xp (local.get $x))
    (local.set $yp (local.get $y))
    (local.set $ye (i32.add (local.get $y) (i32.const @{16 * vectors})))
    (loop $vector
      (v128.store (local.get $yp) (v128.load8x8_s (local.get $xp)))
      (local.set $xp (i32.add (local.get $xp) (i32.const 8)))
      (br_if $vector (i32.lt_u (local.tee $yp (i32.add (local.get $yp) (i32.const 16))) (local.get $ye))))
    (local.set $x (i32.add (local.get $x) (i32.const @{x_stride})))
    (local.set $y (i32.add (local.get $y) (i32.const @{y_stride})))
    (br_if $row (local.tee $rows (i32.sub (local.get $rows) (i32.const 1)))))
)
