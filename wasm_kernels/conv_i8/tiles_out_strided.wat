;; Products of transforms (tiles_in_strided.wat) -> sums of a convolution, 4 x 4 places a tile:  y = bias + A m A' / 36.
;; Packed weights are 36 times too large (pack_winograd.py).  All of it wraps at 32 bits, where a division by 9 without
;; remainder is a multiplication by 954437177; what is shifted out then is the true sum, for that is below 2^25.
;; $m: place by place (of 25: 16 of the first four points, then those of the fifth) all tiles, `width` vectors each; $y,
;; $t (320 bytes): as in tiles_out.wat.
;;@ define line
        (local.set $a (i32x4.add (local.get $d1) (local.get $d2)))
        (local.set $b (i32x4.sub (local.get $d1) (local.get $d2)))
        (local.set $c (i32x4.shl (local.get $d4) (i32.const 1)))
        (local.set $e0 (i32x4.add (i32x4.add (local.get $d0) (local.get $a)) (local.get $d4)))
        (local.set $e1 (i32x4.add (local.get $b) (local.get $c)))
        (local.set $e2 (i32x4.add (local.get $a) (i32x4.shl (local.get $d4) (i32.const 2))))
        (local.set $e3 (i32x4.add (i32x4.add (local.get $b) (local.get $d3)) (i32x4.shl (local.get $c) (i32.const 2))))
;;@ end
(func $@{name} (param $m i32) (param $bias i32) (param $y i32) (param $t i32) (local $n i32) (local $v i32)
  (local $p i32) (local $o i32)
  (local $d0 v128) (local $d1 v128) (local $d2 v128) (local $d3 v128) (local $d4 v128)
  (local $a v128) (local $b v128) (local $c v128)
  (local $e0 v128) (local $e1 v128) (local $e2 v128) (local $e3 v128)
  (local.set $n (i32.const @{tiles}))
  (loop $tile
    (local.set $p (local.get $bias))
    (local.set $o (local.get $y))
    (local.set $v (i32.const @{width}))
    (loop $vector
;;@ for j in 0..5
;;@ for i in 0..4
        (local.set $d@{i} (v128.load offset=@{(4 * i + j + (j == 4) * (16 - 3 * i)) * tiles * width * 16} (local.get $m)))
;;@ end
        (local.set $d4 (v128.load offset=@{(16 + j + 4 * (j == 4)) * tiles * width * 16} (local.get $m)))
;;@ use line
;;@ for i in 0..4
        (v128.store offset=@{80 * i + 16 * j} (local.get $t) (local.get $e@{i}))
;;@ end
;;@ end
;;@ for i in 0..4
;;@ for j in 0..5
        (local.set $d@{j} (v128.load offset=@{80 * i + 16 * j} (local.get $t)))
;;@ end
;;@ use line
;;@ for j in 0..4
        (v128.store offset=@{(4 * tiles * i + j) * y_step} (local.get $o) (i32x4.add (v128.load (local.get $p))
          (i32x4.shr_s (i32x4.mul (local.get $e@{j})
            (v128.const i32x4 954437177 954437177 954437177 954437177)) (i32.const 2))))
;;@ end
;;@ end
      (local.set $m (i32.add (local.get $m) (i32.const 16)))
      (local.set $p (i32.add (local.get $p) (i32.const 16)))
      (local.set $o (i32.add (local.get $o) (i32.const 16)))
      (br_if $vector (local.tee $v (i32.sub (local.get $v) (i32.const 1)))))
    (local.set $y (i32.add (local.get $y) (i32.const @{4 * y_step})))
    (br_if $tile (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
)
