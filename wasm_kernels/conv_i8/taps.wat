;; A depthwise convolution's sums, exact:  y = bias (or y itself) + sum of x * weights  in i32, for `pixels` places of a
;; row.  x: i16, `x_step` bytes a place; y: `y_step` bytes a place; a kernel of kh x kw taps, `row_step` and `col_step`
;; bytes apart.  Any shape: two taps are interleaved and multiplied at once, for 8 channels at a time.
;; Packed weights: for each 8 channels and each pair of taps 2 vectors; an odd last tap has 0 beside it.
(func $@{name} (param $x i32) (param $w i32) (param $bias i32) (param $y i32) (param $pixels i32) (param $never i32)
  (local $xp i32) (local $yp i32) (local $n i32) (local $g i32) (local $a v128) (local $b v128) (local $c v128)
  (local $d v128)
  (local.set $g (i32.const @{groups}))
  (loop $group
    (local.set $xp (local.get $x))
    (local.set $yp (local.get $y))
    (local.set $n (local.get $pixels))
    (loop $pixel
      (block $out
;;@ if fresh
        (local.set $a (v128.load (local.get $bias)))
        (local.set $b (v128.load offset=16 (local.get $bias)))
;;@ else
        (local.set $a (v128.load (local.get $yp)))
        (local.set $b (v128.load offset=16 (local.get $yp)))
;;@ end
;;@ for p in 0..(kh * kw + 1) // 2
        (local.set $c (v128.load offset=@{2 * p // kw * row_step + 2 * p % kw * col_step} (local.get $xp)))
;;@ if 2 * p + 1 < kh * kw
        (local.set $d (v128.load offset=@{(2 * p + 1) // kw * row_step + (2 * p + 1) % kw * col_step} (local.get $xp)))
;;@ else
        (local.set $d (local.get $c))
;;@ end
        (local.set $a (i32x4.add (local.get $a) (i32x4.dot_i16x8_s (v128.load offset=@{32 * p} (local.get $w))
          (i8x16.shuffle 0 1 16 17 2 3 18 19 4 5 20 21 6 7 22 23 (local.get $c) (local.get $d)))))
        (local.set $b (i32x4.add (local.get $b) (i32x4.dot_i16x8_s (v128.load offset=@{32 * p + 16} (local.get $w))
          (i8x16.shuffle 8 9 24 25 10 11 26 27 12 13 28 29 14 15 30 31 (local.get $c) (local.get $d)))))
        (br_if $out (local.get $never))
;;@ end
      )
      (v128.store (local.get $yp) (local.get $a))
      (v128.store offset=16 (local.get $yp) (local.get $b))
      (local.set $xp (i32.add (local.get $xp) (i32.const @{x_step})))
      (local.set $yp (i32.add (local.get $yp) (i32.const @{y_step})))
      (br_if $pixel (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (local.set $x (i32.add (local.get $x) (i32.const 16)))
    (local.set $y (i32.add (local.get $y) (i32.const 32)))
    (local.set $bias (i32.add (local.get $bias) (i32.const 32)))
    (local.set $w (i32.add (local.get $w) (i32.const @{(kh * kw + 1) // 2 * 32})))
    (br_if $group (local.tee $g (i32.sub (local.get $g) (i32.const 1)))))
)
