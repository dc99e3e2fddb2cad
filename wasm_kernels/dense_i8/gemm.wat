;; A dense layer's sums, 8-bit whole numbers, for many rows: tiles of `height` rows x `columns` columns, a part of each panel.
;; gemv.wat explains packing and operations, dense_f32/gemm.wat the loops.
;; $x to $xend: rows, a multiple of `height` of them.  $b: the part's bias in the first panel.  $v: its first weights.
;; $step: bytes of a panel's row of weights.  $panel: bytes of a panel.  $y_step: bytes of a panel's row of sums.
(func $@{name} (param $x i32) (param $xend i32) (param $x_stride i32) (param $k_bytes i32)
  (param $b i32) (param $v i32) (param $step i32) (param $panel i32) (param $panels i32)
  (param $y i32) (param $y_step i32) (param $y_stride i32)
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
  (loop $panels_loop
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
      (local.set $b@{c} (v128.load offset=@{16 * c} (local.get $b)))
;;@ for r in 0..height
      (v128.store offset=@{16 * c} (local.get $y@{r}) (local.get $b@{c}))
;;@ end
;;@ end
      (local.set $wp (local.get $v))
      (local.set $xe (i32.add (local.get $x0) (local.get $k_bytes)))
      (loop $k
        (block $out
;;@ for r in 0..height
;;@ for c in 0..columns
          (local.set $a@{r * columns + c} (v128.load offset=@{16 * c} (local.get $y@{r})))
;;@ end
;;@ end
;;@ for u in 0..unroll
;;@ for c in 0..columns
          (local.set $b@{c} (@{load} offset=@{bytes * c} (local.get $wp)))
;;@ end
;;@ for r in 0..height
          (local.set $s@{r} (v128.load32_splat offset=@{4 * u} (local.get $x@{r})))
;;@ end
;;@ for r in 0..height
;;@ for c in 0..columns
          (local.set $a@{r * columns + c}
            (@{dot} (local.get $b@{c}) (local.get $s@{r}) @{into} (local.get $a@{r * columns + c})))
;;@ end
;;@ end
          (local.set $wp (i32.add (local.get $wp) (local.get $step)))
;;@ if u < unroll - 1
          (br_if $out (i32.eq (i32.add (local.get $x0) (i32.const @{4 * u + 4})) (local.get $xe)))
;;@ end
;;@ end
        )
;;@ for r in 0..height
;;@ for c in 0..columns
        (v128.store offset=@{16 * c} (local.get $y@{r}) (local.get $a@{r * columns + c}))
;;@ end
        (local.set $x@{r} (i32.add (local.get $x@{r}) (i32.const @{4 * unroll})))
;;@ end
        (br_if $k (i32.lt_u (local.get $x0) (local.get $xe))))
      (br_if $tile (i32.lt_u (local.get $xr) (local.get $xend))))
    (local.set $b (i32.add (local.get $b) (local.get $panel)))
    (local.set $v (i32.add (local.get $v) (local.get $panel)))
    (local.set $y (i32.add (local.get $y) (local.get $y_step)))
    (br_if $panels_loop (local.tee $panels (i32.sub (local.get $panels) (i32.const 1)))))
)
