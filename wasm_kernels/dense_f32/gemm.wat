;; A dense layer's sums, float32, for many rows: tiles of `height` rows x one panel of `columns` columns.
;; The same sums in the same order as gemv.wat, which also explains packing and loops: a row's answer does not depend on
;; the rows beside it.
;; $x to $xend: rows, a multiple of `height` of them.  $w: the first of $panels panels, each `columns` wide.
(func $@{name} (param $x i32) (param $xend i32) (param $x_stride i32) (param $k_main i32) (param $k_bytes i32)
  (param $w i32) (param $panels i32) (param $y i32) (param $y_stride i32)
;;@ if fold > 1
  (local $k_folded i32)
;;@ end
  (local $wp i32) (local $xe i32) (local $xr i32) (local $yr i32)
;;@ for r in 0..height
  (local $x@{r} i32) (local $y@{r} i32) (local $s@{r} v128)
;;@ end
;;@ for c in 0..columns
  (local $b@{c} v128)
;;@ end
;;@ for i in 0..height * columns
  (local $a@{i} v128)
;;@ end
;;@ define round
;;@ for g in 0..many
        (block $out
;;@ for r in 0..height
;;@ for c in 0..columns
          (local.set $a@{r * columns + c}
;;@ if fresh
            @[0]
;;@ else
            (v128.load offset=@{16 * c} (local.get $y@{r}))
;;@ end
          )
;;@ end
;;@ end
;;@ for u in 0..steps
;;@ for c in 0..columns
          (local.set $b@{c} (v128.load offset=@{16 * (columns * (g * steps + u + 1) + c)} (local.get $wp)))
;;@ end
;;@ for r in 0..height
          (local.set $s@{r} (v128.load32_splat offset=@{4 * (g * steps + u)} (local.get $x@{r})))
;;@ end
;;@ for r in 0..height
;;@ for c in 0..columns
          (local.set $a@{r * columns + c}
            (@{fma} (local.get $b@{c}) (local.get $s@{r}) @{into} (local.get $a@{r * columns + c})))
;;@ end
;;@ end
;;@ if u < steps - 1
;;@ if main
          (br_if $out (i32.eqz (local.get $w)))
;;@ else
          (br_if $out (i32.eq (i32.add (local.get $x0) (i32.const @{4 * u + 4})) (local.get $xe)))
;;@ end
;;@ end
;;@ end
        )
;;@ for r in 0..height
;;@ for c in 0..columns
        (v128.store offset=@{16 * c} (local.get $y@{r})
;;@ if fresh
          (f32x4.add (v128.load offset=@{16 * c} (local.get $y@{r})) (local.get $a@{r * columns + c}))
;;@ else
          (local.get $a@{r * columns + c})
;;@ end
        )
;;@ end
;;@ if g == many - 1
        (local.set $x@{r} (i32.add (local.get $x@{r}) (i32.const @{4 * steps * many})))
;;@ end
;;@ end
;;@ end
        (local.set $wp (i32.add (local.get $wp) (i32.const @{16 * columns * steps * many})))
;;@ end
;;@ if fold > 1
  (local.set $k_folded (i32.sub (local.get $k_main) (i32.rem_u (local.get $k_main) (i32.const @{4 * unroll * fold}))))
;;@ end
  (loop $panel
    (local.set $xr (local.get $x))
    (local.set $yr (local.get $y))
    (loop $tile
;;@ for r in 0..height
      (local.set $x@{r} (local.get $xr))
      (local.set $y@{r} (local.get $yr))
      (local.set $xr (i32.add (local.get $xr) (local.get $x_stride)))
      (local.set $yr (i32.add (local.get $yr) (local.get $y_stride)))
;;@ end
;;@ for c in 0..columns
      (local.set $b@{c} (v128.load offset=@{16 * c} (local.get $w)))
;;@ for r in 0..height
      (v128.store offset=@{16 * c} (local.get $y@{r}) (local.get $b@{c}))
;;@ end
;;@ end
      (local.set $wp (local.get $w))
;;@ if unroll
;;@ if fold > 1
      (if (local.get $k_folded) (then
        (local.set $xe (i32.add (local.get $x0) (local.get $k_folded)))
        (loop $k
;;@ use round steps=@{unroll} main=1 many=@{fold}
          (br_if $k (i32.lt_u (local.get $x0) (local.get $xe))))))
      (if (i32.ne (local.get $k_main) (local.get $k_folded)) (then
        (local.set $xe (i32.add (local.get $x0) (i32.sub (local.get $k_main) (local.get $k_folded))))
;;@ else
      (if (local.get $k_main) (then
        (local.set $xe (i32.add (local.get $x0) (local.get $k_main)))
;;@ end
        (loop $k
;;@ use round steps=@{unroll} main=1 many=1
          (br_if $k (i32.lt_u (local.get $x0) (local.get $xe))))))
;;@ end
      (local.set $xe (i32.add (local.get $x0) (i32.sub (local.get $k_bytes) (local.get $k_main))))
      (if (i32.lt_u (local.get $x0) (local.get $xe)) (then
        (loop $k
;;@ use round steps=@{tail} main=0 many=1
          (br_if $k (i32.lt_u (local.get $x0) (local.get $xe))))))
      (br_if $tile (i32.lt_u (local.get $xr) (local.get $xend))))
    (local.set $w (i32.add (local.get $w) (i32.add (i32.mul (local.get $k_bytes) (i32.const @{4 * columns}))
      (i32.const @{16 * columns}))))
    (local.set $y (i32.add (local.get $y) (i32.const @{16 * columns})))
    (br_if $panel (local.tee $panels (i32.sub (local.get $panels) (i32.const 1)))))
)
