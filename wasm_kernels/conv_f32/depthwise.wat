;; A depthwise convolution's sums, float32, for a run of output pixels, `columns` columns at a time (a column is 4
;; channels): for kernels of any size; small ones go by depthwise_rows.wat.
;; Packed weights: for each column a vector of bias, then one for each place of the kernel, in order; that is the order
;; of the sums, too.  looped = 0: the whole kernel is one stretch of code.  looped = 1: a stretch does y_body x x_body
;; places, and the sums lie in `sums` between stretches.  wrap, lanes, the branches: panel.wat.
;;@ define stretch
        (block $out
;;@ if looped
;;@ for c in 0..columns
          (local.set $a@{c} (v128.load offset=@{sums + 16 * c} (i32.const 0)))
;;@ end
;;@ end
;;@ for i in 0..y_body
;;@ for j in 0..x_body
;;@ for c in 0..columns
          (local.set $b@{c} (v128.load offset=@{16 * (c * (places + 1) + i * x_body + j + 1)} (local.get $wp)))
          (local.set $v@{c} (v128.load offset=@{16 * c + i * y_gap + j * x_gap} (local.get $x)))
;;@ end
;;@ for c in 0..columns
          (local.set $a@{c} (@{fma} (local.get $v@{c}) (local.get $b@{c}) @{into} (local.get $a@{c})))
;;@ end
;;@ if (j == x_body - 1 or j % 3 == 2) and (i < y_body - 1 or j < x_body - 1)
          (br_if $out (i32.eqz (local.get $wp)))
;;@ end
;;@ end
;;@ end
        )
;;@ if looped
;;@ for c in 0..columns
        (v128.store offset=@{sums + 16 * c} (i32.const 0) (local.get $a@{c}))
;;@ end
        (local.set $wp (i32.add (local.get $wp) (i32.const @{16 * y_body * x_body})))
;;@ end
;;@ end
(func $@{name} (param $xr i32) (param $pixels i32) (param $w i32) (param $groups i32) (param $yr i32)
  (local $wp i32) (local $x i32) (local $xp i32) (local $yp i32) (local $left i32) (local $column i32)
  (local $cy i32) (local $cx i32) (local $t v128) (local $n v128)
;;@ for c in 0..columns
  (local $a@{c} v128) (local $b@{c} v128) (local $v@{c} v128)
;;@ end
  (loop $group
    (local.set $xp (local.get $xr))
    (local.set $yp (local.get $yr))
    (local.set $left (local.get $pixels))
    (local.set $column (i32.const @{width}))
    (loop $pixel
      (local.set $wp (local.get $w))
      (local.set $x (local.get $xp))
;;@ for c in 0..columns
;;@ if looped
      (v128.store offset=@{sums + 16 * c} (i32.const 0) (v128.load offset=@{16 * c * (places + 1)} (local.get $w)))
;;@ else
      (local.set $a@{c} (v128.load offset=@{16 * c * (places + 1)} (local.get $w)))
;;@ end
;;@ end
;;@ if looped
      (local.set $cy (i32.const @{y_rounds}))
      (loop $ky
        (local.set $cx (i32.const @{x_rounds}))
        (loop $kx
;;@ use stretch
          (local.set $x (i32.add (local.get $x) (i32.const @{x_gap * x_body})))
          (br_if $kx (local.tee $cx (i32.sub (local.get $cx) (i32.const 1)))))
        (local.set $x (i32.add (local.get $x) (i32.const @{y_gap * y_body - x_gap * x_body * x_rounds})))
        (br_if $ky (local.tee $cy (i32.sub (local.get $cy) (i32.const 1)))))
;;@ for c in 0..columns
      (local.set $a@{c} (v128.load offset=@{sums + 16 * c} (i32.const 0)))
;;@ end
;;@ else
;;@ use stretch
;;@ end
;;@ for c in 0..columns
;;@ if activation != "linear"
;;@ use @{activation} a=$a@{c}
;;@ end
;;@ use conv_store value=$a@{c} address=$yp at=@{16 * c} count=@{lanes * (c == columns - 1)}
;;@ end
      (local.set $yp (i32.add (local.get $yp) (i32.const @{y_step})))
      (local.set $xp (i32.add (local.get $xp) (i32.const @{x_step})))
      (if (i32.eqz (local.tee $column (i32.sub (local.get $column) (i32.const 1)))) (then
        (local.set $column (i32.const @{width}))
        (local.set $xp (i32.add (local.get $xp) (i32.const @{x_wrap})))))
      (br_if $pixel (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (local.set $w (i32.add (local.get $w) (i32.const @{16 * columns * (places + 1)})))
    (local.set $xr (i32.add (local.get $xr) (i32.const @{16 * columns})))
    (local.set $yr (i32.add (local.get $yr) (i32.const @{16 * columns})))
    (br_if $group (local.tee $groups (i32.sub (local.get $groups) (i32.const 1)))))
)
