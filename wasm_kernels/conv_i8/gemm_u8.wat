;; A convolution's sums from bytes, exact:  y = bias + x @ weights  in i32,  for `pixels` places and one panel of
;; 4 * width outputs.  x: bytes from 0 to 255 where the machine multiplies them so, else i8 (places_u8.wat), `x_step` bytes
;; a place; y: `y_step` bytes a place.
;;
;; A step is 4 values of x and 16 bytes of weights for each vector of 4 outputs; 2 steps are summed in 16 bits before they
;; widen, which packing has made sure of (compile/held.py): 5 operations for 32 products where gemm.wat has 8.
;; `rounds` bodies of `unroll` such pairs of steps.  Where the inputs end before them, the packed weights are 0, and what
;; lies behind is read and not used.  With one round no sum goes through memory, else the sums wait in y between bodies.
;;
;; Cranelift's habits are told in dense_f32/gemv.wat.  Here a branch on $never, which is 0, follows each vector of
;; several places, or each pair of steps of one.  `alone`: whether a place may be left over.
;;@ define pair
;;@ if u % 2 == 0
;;@ for r in 0..rows
          (local.set $v@{r} (v128.load offset=@{8 * u + r * x_step} (local.get $xp)))
;;@ end
;;@ end
;;@ for r in 0..rows
          (local.set $s@{r} (i8x16.shuffle
;;@ use four j=@{2 * (u % 2)}
          (local.set $t@{r} (i8x16.shuffle
;;@ use four j=@{2 * (u % 2) + 1}
;;@ end
;;@ for c in 0..width
          (local.set $b (v128.load offset=@{16 * (2 * u * width + c)} (local.get $wp)))
          (local.set $d (v128.load offset=@{16 * (2 * u * width + width + c)} (local.get $wp)))
;;@ for r in 0..rows
          (local.set $a@{r * width + c} (i32x4.add (local.get $a@{r * width + c}) (i32x4.dot_i16x8_s
            (i16x8.add
              (i16x8.relaxed_dot_i8x16_i7x16_s (local.get $b) (local.get $s@{r}))
              (i16x8.relaxed_dot_i8x16_i7x16_s (local.get $d) (local.get $t@{r})))
            (v128.const i32x4 0x10001 0x10001 0x10001 0x10001))))
;;@ end
;;@ if rows > 1
          (br_if $out (local.get $never))
;;@ end
;;@ end
          (br_if $out (local.get $never))
;;@ end
;;@ define four
;;@ for i in 0..16
            @{4 * j + i % 4}
;;@ end
            (local.get $v@{r}) (local.get $v@{r})))
;;@ end
;;@ define tile
      (local.set $xp (local.get $x))
      (local.set $wp (local.get $w))
;;@ for c in 0..width
      (local.set $b (v128.load offset=@{16 * c} (local.get $bias)))
;;@ for r in 0..rows
;;@ if rounds == 1
      (local.set $a@{r * width + c} (local.get $b))
;;@ else
      (v128.store offset=@{16 * c + r * y_step} (local.get $y) (local.get $b))
;;@ end
;;@ end
;;@ end
;;@ if rounds > 1
      (local.set $k (i32.const @{rounds}))
      (loop $round
;;@ for r in 0..rows
;;@ for c in 0..width
        (local.set $a@{r * width + c} (v128.load offset=@{16 * c + r * y_step} (local.get $y)))
;;@ end
;;@ end
;;@ end
        (block $out
;;@ for u in 0..unroll
;;@ use pair rows=@{rows}
;;@ end
        )
;;@ for r in 0..rows
;;@ for c in 0..width
        (v128.store offset=@{16 * c + r * y_step} (local.get $y) (local.get $a@{r * width + c}))
;;@ end
;;@ end
;;@ if rounds > 1
        (local.set $xp (i32.add (local.get $xp) (i32.const @{8 * unroll})))
        (local.set $wp (i32.add (local.get $wp) (i32.const @{32 * width * unroll})))
        (br_if $round (local.tee $k (i32.sub (local.get $k) (i32.const 1)))))
;;@ end
      (local.set $x (i32.add (local.get $x) (i32.const @{rows * x_step})))
      (local.set $y (i32.add (local.get $y) (i32.const @{rows * y_step})))
;;@ end
(func $@{name} (param $x i32) (param $w i32) (param $bias i32) (param $y i32) (param $pixels i32) (param $never i32)
  (local $xp i32) (local $wp i32) (local $k i32) (local $b v128) (local $d v128)
;;@ for r in 0..tile
  (local $v@{r} v128) (local $s@{r} v128) (local $t@{r} v128)
;;@ for c in 0..width
  (local $a@{r * width + c} v128)
;;@ end
;;@ end
;;@ if tile > 1
  (if (i32.ge_u (local.get $pixels) (i32.const @{tile})) (then
    (loop $pixel
;;@ use tile rows=@{tile}
      (br_if $pixel (i32.ge_u (local.tee $pixels (i32.sub (local.get $pixels) (i32.const @{tile})))
        (i32.const @{tile}))))))
;;@ end
;;@ if tile == 1 or alone
  (if (local.get $pixels) (then
    (loop $pixel
;;@ use tile rows=1
      (br_if $pixel (local.tee $pixels (i32.sub (local.get $pixels) (i32.const 1)))))))
;;@ end
)
