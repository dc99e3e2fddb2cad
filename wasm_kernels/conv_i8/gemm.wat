;; A convolution's sums in whole numbers, exact:  y = bias + x @ weights  in i32,  for `pixels` places of a row and one
;; panel of 4 * width outputs.  x: i16, a place is `x_step` bytes behind the one before; y: `y_step` bytes a place.
;;
;; What a place multiplies lies in segments of neighbouring values: `segments` of them, `seg_step` bytes apart, in groups
;; (`groups`, `group_step` bytes apart: rows of the kernel).  A step is 2 values of x and 16 bytes of weights for each
;; vector of 4 outputs; a segment has `rounds` bodies of `unroll` steps.  Where a segment ends before them, the packed
;; weights are 0, and what lies behind it is read and not used.
;; `repeat` above 1: that many times with weights of its own each, places going on where the last ended.
;; biased 0: the sums begin at 0.  rest 0: the places are a multiple of `tile`.
;; at_once above 0: so many tiles are all the places, and are written out.
;; `flat`: all steps are written out, and no sum goes through memory.  Else the sums wait in y between bodies.
;;
;; Cranelift's habits are told in dense_f32/gemv.wat: a branch behind each step, here on $never, which is 0, keeps the
;; arithmetic where it is written; no value in a vector register lives across the head of a loop.
;;@ define step
;;@ if splat == 0
;;@ if u % 4 == 0
;;@ for r in 0..rows
          (local.set $v@{r} (v128.load offset=@{at + 4 * u + r * x_step} (local.get $xp)))
;;@ end
;;@ end
;;@ end
;;@ for r in 0..rows
;;@ if splat
          (local.set $s@{r} (v128.load32_splat offset=@{at + 4 * u + r * x_step} (local.get $xp)))
;;@ else
          (local.set $s@{r} (i8x16.shuffle
;;@ for i in 0..16
            @{4 * (u % 4) + i % 4}
;;@ end
            (local.get $v@{r}) (local.get $v@{r})))
;;@ end
;;@ end
;;@ for c in 0..width
          (local.set $b (v128.load offset=@{16 * ((wat + u) * width + c)} (local.get $wp)))
;;@ for r in 0..rows
;;@ if wat + u == 0 and flat and biased == 0
          (local.set $a@{r * width + c} (i32x4.dot_i16x8_s (local.get $b) (local.get $s@{r})))
;;@ else
          (local.set $a@{r * width + c} (i32x4.add (local.get $a@{r * width + c})
            (i32x4.dot_i16x8_s (local.get $b) (local.get $s@{r}))))
;;@ end
;;@ end
;;@ end
          (br_if $out (local.get $never))
;;@ end
;;@ define bias
;;@ for c in 0..width
;;@ if biased == 0
        (local.set $b (v128.const i32x4 0 0 0 0))
;;@ else
        (local.set $b (v128.load offset=@{16 * c} (local.get $bias)))
;;@ end
;;@ for r in 0..rows
        (local.set $a@{r * width + c} (local.get $b))
;;@ end
;;@ end
;;@ end
;;@ define store
;;@ for r in 0..rows
;;@ for c in 0..width
        (v128.store offset=@{16 * c + r * y_step} (local.get $y) (local.get $a@{r * width + c}))
;;@ end
;;@ end
;;@ end
;;@ define tile
      (local.set $xp (local.get $x))
      (local.set $wp (local.get $w))
;;@ if flat
      (block $out
;;@ if biased
;;@ use bias rows=@{rows}
;;@ end
;;@ for g in 0..groups
;;@ for s in 0..segments
;;@ for u in 0..unroll * rounds
;;@ use step rows=@{rows} at=@{g * group_step + s * seg_step} wat=@{(g * segments + s) * unroll * rounds}
;;@ end
;;@ end
;;@ end
      )
;;@ use store rows=@{rows}
;;@ else
;;@ use bias rows=@{rows}
;;@ use store rows=@{rows}
      (local.set $g (i32.const @{groups}))
      (loop $group
        (local.set $s (i32.const @{segments}))
        (loop $segment
          (local.set $k (i32.const @{rounds}))
          (loop $round
            (block $out
;;@ for r in 0..rows
;;@ for c in 0..width
              (local.set $a@{r * width + c} (v128.load offset=@{16 * c + r * y_step} (local.get $y)))
;;@ end
;;@ end
;;@ for u in 0..unroll
;;@ use step rows=@{rows} at=0 wat=0
;;@ end
            )
;;@ use store rows=@{rows}
            (local.set $xp (i32.add (local.get $xp) (i32.const @{4 * unroll})))
            (local.set $wp (i32.add (local.get $wp) (i32.const @{16 * width * unroll})))
            (br_if $round (local.tee $k (i32.sub (local.get $k) (i32.const 1)))))
          (local.set $xp (i32.add (local.get $xp) (i32.const @{seg_step - 4 * unroll * rounds})))
          (br_if $segment (local.tee $s (i32.sub (local.get $s) (i32.const 1)))))
        (local.set $xp (i32.add (local.get $xp) (i32.const @{group_step - segments * seg_step})))
        (br_if $group (local.tee $g (i32.sub (local.get $g) (i32.const 1)))))
;;@ end
      (local.set $x (i32.add (local.get $x) (i32.const @{rows * x_step})))
      (local.set $y (i32.add (local.get $y) (i32.const @{rows * y_step})))
;;@ end
(func $@{name} (param $x i32) (param $w i32) (param $bias i32) (param $y i32) (param $pixels i32) (param $never i32)
  (local $xp i32) (local $wp i32) (local $g i32) (local $s i32) (local $k i32) (local $b v128)
;;@ for r in 0..tile
  (local $s@{r} v128) (local $v@{r} v128)
;;@ for c in 0..width
  (local $a@{r * width + c} v128)
;;@ end
;;@ end
;;@ if repeat > 1
  (local $again i32) (local $places i32)
  (local.set $again (i32.const @{repeat}))
  (local.set $places (local.get $pixels))
  (loop $next
  (local.set $pixels (local.get $places))
;;@ end
;;@ if at_once
;;@ for t in 0..at_once
;;@ use tile rows=@{tile}
;;@ end
;;@ else
  (if (i32.ge_u (local.get $pixels) (i32.const @{tile})) (then
    (loop $pixel
;;@ use tile rows=@{tile}
      (br_if $pixel (i32.ge_u (local.tee $pixels (i32.sub (local.get $pixels) (i32.const @{tile})))
        (i32.const @{tile}))))))
;;@ end
;;@ if tile > 1 and rest
  (if (local.get $pixels) (then
    (loop $pixel
;;@ use tile rows=1
      (br_if $pixel (local.tee $pixels (i32.sub (local.get $pixels) (i32.const 1)))))))
;;@ end
;;@ if repeat > 1
  (local.set $w (i32.add (local.get $w) (i32.const @{16 * width * groups * segments * unroll * rounds})))
  (br_if $next (local.tee $again (i32.sub (local.get $again) (i32.const 1)))))
;;@ end
)
