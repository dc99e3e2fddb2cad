;; A dense layer's sums in 8-bit whole numbers:  y = bias + x @ weights  in i32,  panel by panel, for each panel row by row.
;;
;; A panel is `width` columns, a column 4 outputs; packed as a row of bias (i32, 16 bytes a column), then a row of weights
;; for each step.  A step is 4 bytes of x and `bytes` bytes of weights a column.
;;   half 1: 2 values of x (i16),          8 bytes: 4 outputs x 2 weights; products and sums in i32, exact for all values
;;   half 0: 4 values of x (u8, 0..127),  16 bytes: 4 outputs x 4 weights; products of `group` steps are summed in i16
;; i16x8.relaxed_dot_i8x16_i7x16_s leaves two things to the machine: whether bit 7 of the second operand is a sign, and
;; whether the sum of two products wraps or saturates.  x <= 127 and |w| <= 127, so |sum| <= 32258, meet neither: all
;; machines agree.  Sums over `group` steps stay within i16 because packing scales the weights so (model/quantize.py).
;;
;; Three habits of Cranelift shape the loop (the first two are told in dense_f32/gemv.wat):
;; - It sinks arithmetic below a block's loads.  A branch on $never, which is 0, ends the block behind each `fence`
;;   columns: cheaper than a spill.  One that could leave the loop follows each group of steps.
;; - No value lives across the loop's head: sums go through y, and the vector of ones is loaded each time.
;; - It makes a constant of its own for each use in memory; a vector loaded once stays in a register.
(func $@{name} (param $x i32) (param $rows i32) (param $x_stride i32) (param $k_bytes i32) (param $w i32)
  (param $ones i32) (param $panels i32) (param $y i32) (param $y_stride i32) (param $never i32)
  (local $wp i32) (local $xp i32) (local $xe i32) (local $xr i32) (local $yr i32) (local $left i32)
  (local $x4 v128) (local $one v128)
;;@ for c in 0..width
  (local $a@{c} v128)
;;@ end
;;@ for g in 0..group
  (local $s@{g} v128) (local $b@{g} v128)
;;@ end
  (loop $panel
    (local.set $xr (local.get $x))
    (local.set $yr (local.get $y))
    (local.set $left (local.get $rows))
    (loop $row
;;@ for c in 0..width
      (v128.store offset=@{16 * c} (local.get $yr) (v128.load offset=@{16 * c} (local.get $w)))
;;@ end
      (local.set $wp (i32.add (local.get $w) (i32.const @{16 * width})))
      (local.set $xp (local.get $xr))
      (local.set $xe (i32.add (local.get $xr) (local.get $k_bytes)))
      (loop $k
        (block $out
;;@ if half == 0
          (local.set $one (v128.load (local.get $ones)))
;;@ end
;;@ for c in 0..width
          (local.set $a@{c} (v128.load offset=@{16 * c} (local.get $yr)))
;;@ end
;;@ for u in 0..unroll // group
;;@ if u * group % 4 == 0
          (local.set $x4 (v128.load offset=@{4 * u * group} (local.get $xp)))
;;@ end
;;@ for g in 0..group
;;@ use lane g=@{g} l=@{(u * group + g) % 4 * 4}
;;@ end
;;@ for c in 0..width
;;@ for g in 0..group
          (local.set $b@{g} (@{load} offset=@{bytes * ((u * group + g) * width + c)} (local.get $wp)))
;;@ end
;;@ if half
          (local.set $a@{c} (i32x4.add (i32x4.dot_i16x8_s (local.get $b0) (local.get $s0)) (local.get $a@{c})))
;;@ else
;;@ for g in 0..group
          (local.set $b@{g} (i16x8.relaxed_dot_i8x16_i7x16_s (local.get $b@{g}) (local.get $s@{g})))
;;@ end
;;@ for g in 0..group // 2
          (local.set $b@{2 * g} (i16x8.add (local.get $b@{2 * g}) (local.get $b@{2 * g + 1})))
;;@ end
;;@ for g in 0..group // 4
          (local.set $b@{4 * g} (i16x8.add (local.get $b@{4 * g}) (local.get $b@{4 * g + 2})))
;;@ end
          (local.set $a@{c} (i32x4.add (i32x4.dot_i16x8_s (local.get $b0) (local.get $one)) (local.get $a@{c})))
;;@ end
;;@ if (c + 1) % fence == 0 and c < width - 1
          (br_if $out (local.get $never))
;;@ end
;;@ end
;;@ if u < unroll // group - 1
          (br_if $out (i32.eq (i32.add (local.get $xp) (i32.const @{4 * group * (u + 1)})) (local.get $xe)))
;;@ end
;;@ end
        )
;;@ for c in 0..width
        (v128.store offset=@{16 * c} (local.get $yr) (local.get $a@{c}))
;;@ end
        (local.set $wp (i32.add (local.get $wp) (i32.const @{bytes * width * unroll})))
        (local.set $xp (i32.add (local.get $xp) (i32.const @{4 * unroll})))
        (br_if $k (i32.lt_u (local.get $xp) (local.get $xe))))
      (local.set $xr (i32.add (local.get $xr) (local.get $x_stride)))
      (local.set $yr (i32.add (local.get $yr) (local.get $y_stride)))
      (br_if $row (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (local.set $w (i32.add (i32.add (local.get $w) (i32.const @{16 * width}))
      (i32.mul (local.get $k_bytes) (i32.const @{bytes * width // 4}))))
    (local.set $y (i32.add (local.get $y) (i32.const @{16 * width})))
    (br_if $panel (local.tee $panels (i32.sub (local.get $panels) (i32.const 1)))))
)
;;@ define lane
          (local.set $s@{g} (i8x16.shuffle @{l} @{l + 1} @{l + 2} @{l + 3} @{l} @{l + 1} @{l + 2} @{l + 3}
            @{l} @{l + 1} @{l + 2} @{l + 3} @{l} @{l + 1} @{l + 2} @{l + 3} (local.get $x4) (local.get $x4)))
;;@ end
