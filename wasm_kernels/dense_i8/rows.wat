;; One dense layer's sums on many rows: tiles of `height` rows, then the rows left over, one by one.
;; Each panel is computed in parts of `part` columns; panels as in row.wat.
(func $@{name} (param $x i32) (param $rows i32) (param $w i32) (param $y i32) (local $xend i32)
  (local.set $xend (i32.add (local.get $x)
    (i32.mul (i32.sub (local.get $rows) (i32.rem_u (local.get $rows) (i32.const @{height}))) (i32.const @{x_stride}))))
;;@ define call
  (call $@{gemm} (local.get $x) (local.get $xend) (i32.const @{x_stride}) (i32.const @{4 * steps})
    (i32.add (local.get $w) (i32.const @{at * (16 + bytes * steps) + 16 * first}))
    (i32.add (local.get $w) (i32.const @{at * (16 + bytes * steps) + 16 * columns + bytes * first}))
    (i32.const @{bytes * columns}) (i32.const @{columns * (16 + bytes * steps)}) (i32.const @{count})
    (i32.add (local.get $y) (i32.const @{16 * (at + first)})) (i32.const @{16 * columns}) (i32.const @{y_stride}))
;;@ end
  (if (i32.ge_u (local.get $rows) (i32.const @{height})) (then
;;@ if panels
;;@ for p in 0..width // part
;;@ use call gemm=@{gemm_part} at=0 first=@{part * p} columns=@{width} count=@{panels}
;;@ end
;;@ if width % part
;;@ use call gemm=@{gemm_width} at=0 first=@{width - width % part} columns=@{width} count=@{panels}
;;@ end
;;@ end
;;@ if last
;;@ for p in 0..last // part
;;@ use call gemm=@{gemm_part} at=@{panels * width} first=@{part * p} columns=@{last} count=1
;;@ end
;;@ if last % part
;;@ use call gemm=@{gemm_last} at=@{panels * width} first=@{last - last % part} columns=@{last} count=1
;;@ end
;;@ end
  ))
  (local.set $y (i32.add (local.get $y)
    (i32.mul (i32.sub (local.get $rows) (i32.rem_u (local.get $rows) (i32.const @{height}))) (i32.const @{y_stride}))))
  (local.set $x (local.get $xend))
  (local.set $rows (i32.rem_u (local.get $rows) (i32.const @{height})))
  (if (local.get $rows) (then
    (loop $left
      (call $@{row} (local.get $x) (local.get $w) (local.get $y))
      (local.set $x (i32.add (local.get $x) (i32.const @{x_stride})))
      (local.set $y (i32.add (local.get $y) (i32.const @{y_stride})))
      (br_if $left (local.tee $rows (i32.sub (local.get $rows) (i32.const 1)))))))
)
