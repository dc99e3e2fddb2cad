;; Products of transforms -> sums of a convolution, 4 x 4 places a tile:  y = bias + A m A'  in i32, exact.
;; Packed weights are transformed without their fractions (pack_winograd.py), so a line of A m comes out 3 * 2^k times
;; too large, k = 3, 2, 1, 1 for its four numbers: y is (A m A') / 9 / 2^(k + k').  All of it wraps at 32 bits, where a
;; division by 9 without remainder is a multiplication by 954437177; what then is shifted out is the true sum, for that
;; is below 2^25 (`Shape.winograd`).
;; $m: place by place (of 36) all tiles, `width` vectors each; $y: a row of 4 * tiles places, `y_step` bytes each, four
;; times; $t: 384 bytes for itself.
;;@ define line
        (local.set $a (i32x4.add (local.get $d1) (local.get $d2)))
        (local.set $b (i32x4.sub (local.get $d2) (local.get $d1)))
        (local.set $c (i32x4.add (local.get $d3) (local.get $d4)))
        (local.set $d (i32x4.sub (local.get $d3) (local.get $d4)))
        (local.set $e0 (i32x4.add (i32x4.sub (local.get $d0) (i32x4.shl (local.get $a) (i32.const 2))) (local.get $c)))
        (local.set $e1 (i32x4.add (i32x4.add (local.get $b) (local.get $b)) (local.get $d)))
        (local.set $e2 (i32x4.sub (local.get $c) (local.get $a)))
        (local.set $e3 (i32x4.add (i32x4.add (local.get $b) (local.get $d5))
          (i32x4.add (local.get $d) (local.get $d))))
;;@ end
(func $@{name} (param $m i32) (param $bias i32) (param $y i32) (param $t i32) (local $n i32) (local $v i32)
  (local $p i32) (local $o i32)
  (local $d0 v128) (local $d1 v128) (local $d2 v128) (local $d3 v128) (local $d4 v128) (local $d5 v128)
  (local $a v128) (local $b v128) (local $c v128) (local $d v128)
  (local $e0 v128) (local $e1 v128) (local $e2 v128) (local $e3 v128)
  (local.set $n (i32.const @{tiles}))
  (loop $tile
    (local.set $p (local.get $bias))
    (local.set $o (local.get $y))
    (local.set $v (i32.const @{width}))
    (loop $vector
;;@ for j in 0..6
;;@ for i in 0..6
        (local.set $d@{i} (v128.load offset=@{(6 * i + j) * tiles * width * 16} (local.get $m)))
;;@ end
;;@ use line
;;@ for i in 0..4
        (v128.store offset=@{96 * i + 16 * j} (local.get $t) (local.get $e@{i}))
;;@ end
;;@ end
;;@ for i in 0..4
;;@ for j in 0..6
        (local.set $d@{j} (v128.load offset=@{96 * i + 16 * j} (local.get $t)))
;;@ end
;;@ use line
;;@ for j in 0..4
        (v128.store offset=@{(4 * tiles * i + j) * y_step} (local.get $o) (i32x4.add (v128.load (local.get $p))
          (i32x4.shr_s (i32x4.mul (local.get $e@{j})
            (v128.const i32x4 954437177 954437177 954437177 954437177))
            (i32.const @{3 - i + (i == 3) + 3 - j + (j == 3)}))))
;;@ end
;;@ end
      (local.set $m (i32.add (local.get $m) (i32.const 16)))
      (local.set $p (i32.add (local.get $p) (i32.const 16)))
      (local.set $o (i32.add (local.get $o) (i32.const 16)))
      (br_if $vector (local.tee $v (i32.sub (local.get $v) (i32.const 1)))))
    (local.set $y (i32.add (local.get $y) (i32.const @{4 * y_step})))
    (br_if $tile (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
)
