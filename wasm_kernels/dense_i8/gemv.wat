;; A dense layer's sums, 8-bit whole numbers, for one row:  y = bias + x @ weights  in i32,  panel by panel.
;;
;; A panel is `width` columns, a column 4 outputs; packed as a row of bias (i32, 16 bytes a column), then a row of weights
;; for each step.  A step is 4 bytes of x and `bytes` bytes of weights a column, by path:
;;   i7     4 values of x, u8 within 0..127;  16 bytes: 4 outputs x 4 weights;  i32x4.relaxed_dot_i8x16_i7x16_add_s
;;   exact  2 values of x, i16;               8 bytes:  4 outputs x 2 weights;  v128.load8x8_s, i32x4.dot_i16x8_s
;; The relaxed operation leaves two things to the machine: whether the second operand's bit 7 is a sign, and whether the
;; sum of two products wraps or saturates in i16.  x <= 127 and |w| <= 127 (so |sum| <= 32258) meet neither: all machines agree.
;; The loop has the shape of dense_f32/gemv.wat, for the reasons told there.
(func $@{name} (param $x i32) (param $k_bytes i32) (param $w i32) (param $panels i32) (param $y i32)
  (local $wp i32) (local $xp i32) (local $xe i32) (local $s v128)
;;@ for c in 0..width
  (local $a@{c} v128) (local $b@{c} v128)
;;@ end
  (local.set $xe (i32.add (local.get $x) (local.get $k_bytes)))
  (loop $panel
;;@ for c in 0..width
    (v128.store offset=@{16 * c} (local.get $y) (v128.load offset=@{16 * c} (local.get $w)))
;;@ end
    (local.set $wp (i32.add (local.get $w) (i32.const @{16 * width})))
    (local.set $xp (local.get $x))
    (loop $k
      (block $out
;;@ for c in 0..width
        (local.set $a@{c} (v128.load offset=@{16 * c} (local.get $y)))
;;@ end
;;@ for u in 0..unroll
;;@ for c in 0..width
        (local.set $b@{c} (@{load} offset=@{bytes * (u * width + c)} (local.get $wp)))
;;@ end
        (local.set $s (v128.load32_splat offset=@{4 * u} (local.get $xp)))
;;@ for c in 0..width
        (local.set $a@{c} (@{dot} (local.get $b@{c}) (local.get $s) @{into} (local.get $a@{c})))
;;@ end
;;@ if u < unroll - 1
        (br_if $out (i32.eq (i32.add (local.get $xp) (i32.const @{4 * u + 4})) (local.get $xe)))
;;@ end
;;@ end
      )
;;@ for c in 0..width
      (v128.store offset=@{16 * c} (local.get $y) (local.get $a@{c}))
;;@ end
      (local.set $wp (i32.add (local.get $wp) (i32.const @{bytes * width * unroll})))
      (local.set $xp (i32.add (local.get $xp) (i32.const @{4 * unroll})))
      (br_if $k (i32.lt_u (local.get $xp) (local.get $xe))))
    (local.set $w (i32.add (i32.add (local.get $w) (i32.const @{16 * width}))
      (i32.mul (local.get $k_bytes) (i32.const @{bytes * width // 4}))))
    (local.set $y (i32.add (local.get $y) (i32.const @{16 * width})))
    (br_if $panel (local.tee $panels (i32.sub (local.get $panels) (i32.const 1)))))
)
