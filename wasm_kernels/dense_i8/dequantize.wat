;; Rows of i32 sums -> rows of float32, in place: sum * factor, one factor an output.  vectors: of 4 in a row; gap: bytes between
;; rows.
(func $@{name} (param $x i32) (param $rows i32) (param $f i32)
  (local $xe i32) (local $fp i32)
  (loop $row
    (local.set $fp (local.get $f))
    (local.set $xe (i32.add (local.get $x) (i32.const @{16 * vectors})))
    (loop $column
      (v128.store (local.get $x)
        (f32x4.mul (f32x4.convert_i32x4_s (v128.load (local.get $x))) (v128.load (local.get $fp))))
      (local.set $fp (i32.add (local.get $fp) (i32.const 16)))
      (br_if $column (i32.lt_u (local.tee $x (i32.add (local.get $x) (i32.const 16))) (local.get $xe))))
;;@ if gap
    (local.set $x (i32.add (local.get $x) (i32.const @{gap})))
;;@ end
    (br_if $row (local.tee $rows (i32.sub (local.get $rows) (i32.const 1)))))
)
