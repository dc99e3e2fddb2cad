;; Dense layer, float32, many rows: `height` rows at a time through every panel, what is left by gemv.wat, one by one.
;; The same sums in the same order as gemv.wat, so a row's answer does not depend on the rows beside it.
;; Each row's part of a step ends in a branch that is never taken, for the reason gemv.wat gives.
;; x_stride, y_stride: bytes from row to row.  The other parameters are those of gemv.wat.
(func $@{name} (param $x i32) (param $rows i32) (param $w i32) (param $y i32)
  (local $wq i32) (local $wp i32) (local $xr i32) (local $xp i32) (local $xe i32) (local $yr i32) (local $xend i32)
  (local $j i32)
;;@ for r in 0..height
  (local $s@{r} v128)
;;@ end
;;@ for v in 0..panel
  (local $b@{v} v128)
;;@ end
;;@ for i in 0..height * panel
  (local $a@{i} v128)
;;@ end
  (local.set $xend (i32.add (local.get $x)
    (i32.mul (i32.sub (local.get $rows) (i32.rem_u (local.get $rows) (i32.const @{height}))) (i32.const @{x_stride}))))
  (if (i32.lt_u (local.get $x) (local.get $xend)) (then
    (local.set $wq (local.get $w))
    (loop $panels
      (local.set $xr (local.get $x))
      (local.set $yr (i32.add (local.get $y) (i32.mul (local.get $j) (i32.const @{16 * panel}))))
      (loop $tile
;;@ for r in 0..height
;;@ for v in 0..panel
        (local.set $a@{r * panel + v} (v128.load offset=@{16 * v} (local.get $wq)))
;;@ end
;;@ end
        (local.set $wp (i32.add (local.get $wq) (i32.const @{16 * panel})))
        (local.set $xp (local.get $xr))
        (local.set $xe (i32.add (local.get $xr) (i32.const @{4 * inputs})))
        (block $out (loop $k
;;@ for u in 0..unroll
;;@ for v in 0..panel
          (local.set $b@{v} (v128.load offset=@{16 * (u * panel + v)} (local.get $wp)))
;;@ end
;;@ for r in 0..height
          (local.set $s@{r} (v128.load32_splat offset=@{r * x_stride + 4 * u} (local.get $xp)))
;;@ for v in 0..panel
          (local.set $a@{r * panel + v}
            (@{fma} (local.get $b@{v}) (local.get $s@{r}) @{into} (local.get $a@{r * panel + v})))
;;@ end
;;@ if r < height - 1
          (br_if $out (i32.eq (local.get $xp) (local.get $xe)))
;;@ end
;;@ end
;;@ if u < unroll - 1
          (br_if $out (i32.eq (i32.add (local.get $xp) (i32.const @{4 * u + 4})) (local.get $xe)))
;;@ end
;;@ end
          (local.set $wp (i32.add (local.get $wp) (i32.const @{16 * panel * unroll})))
          (local.set $xp (i32.add (local.get $xp) (i32.const @{4 * unroll})))
          (br_if $k (i32.lt_u (local.get $xp) (local.get $xe)))))
;;@ for r in 0..height
;;@ for v in 0..panel
;;@ use @{activation} a=$a@{r * panel + v}
        (v128.store offset=@{r * y_stride + 16 * v} (local.get $yr) (local.get $a@{r * panel + v}))
;;@ end
;;@ end
        (local.set $xr (i32.add (local.get $xr) (i32.const @{height * x_stride})))
        (local.set $yr (i32.add (local.get $yr) (i32.const @{height * y_stride})))
        (br_if $tile (i32.lt_u (local.get $xr) (local.get $xend))))
      (local.set $wq (i32.add (local.get $wq) (i32.const @{panel_bytes})))
      (local.set $j (i32.add (local.get $j) (i32.const 1)))
      (br_if $panels (i32.lt_u (local.get $j) (i32.const @{panels}))))
    (local.set $y (i32.add (local.get $y)
      (i32.mul (i32.div_u (i32.sub (local.get $xend) (local.get $x)) (i32.const @{x_stride})) (i32.const @{y_stride}))))
    (local.set $x (local.get $xend))))
  (local.set $xend (i32.add (local.get $x)
    (i32.mul (i32.rem_u (local.get $rows) (i32.const @{height})) (i32.const @{x_stride}))))
  (block $done (loop $left
    (br_if $done (i32.ge_u (local.get $x) (local.get $xend)))
    (call $@{gemv} (local.get $x) (local.get $w) (local.get $y))
    (local.set $x (i32.add (local.get $x) (i32.const @{x_stride})))
    (local.set $y (i32.add (local.get $y) (i32.const @{y_stride})))
    (br $left)))
)
