;; softmax of each row from $p to $end: e^(x - max) / sum of e^(x - max), over the row's `width` true values.
;; vectors: vectors of 4 in a row; the lanes behind the width count neither for the maximum nor for the sum.
;; x - max is held above -60: nothing becomes denormal, and what is lost is below 1e-26.
;; NaN or +inf anywhere in a row makes the whole row NaN.  Sum: lane by lane over the vectors, then (0+2)+(1+3).
(func $@{name} (param $p i32) (param $end i32)
  (local $q i32) (local $last i32) (local $a v128) (local $m v128) (local $sum v128) (local $t v128) (local $n v128)
;;@ define masked
;;@ if width % 4
  (local.set $a (v128.bitselect (local.get $a) @[-inf] (v128.const i32x4
;;@ for i in 0..4
    @{0 - (i < width % 4)}
;;@ end
  )))
;;@ end
;;@ end
  (loop $row
    (local.set $last (i32.add (local.get $p) (i32.const @{16 * (vectors - 1)})))
    (local.set $a (v128.load (local.get $last)))
;;@ use masked
    (local.set $m (local.get $a))
;;@ if vectors > 1
    (local.set $q (local.get $p))
    (loop $max
      (local.set $m (f32x4.pmax (local.get $m) (v128.load (local.get $q))))
      (local.set $q (i32.add (local.get $q) (i32.const 16)))
      (br_if $max (i32.lt_u (local.get $q) (local.get $last))))
;;@ end
    (local.set $m (f32x4.pmax (local.get $m)
      (i8x16.shuffle 8 9 10 11 12 13 14 15 0 1 2 3 4 5 6 7 (local.get $m) (local.get $m))))
    (local.set $m (f32x4.pmax (local.get $m)
      (i8x16.shuffle 4 5 6 7 0 1 2 3 12 13 14 15 8 9 10 11 (local.get $m) (local.get $m))))
    (local.set $sum @[0])
    (local.set $q (local.get $p))
;;@ if vectors > 1
    (loop $exp
      (local.set $a (f32x4.pmin (f32x4.sub (local.get $m) (v128.load (local.get $q))) @[60]))
;;@ use exp_negative a=$a
      (v128.store (local.get $q) (local.get $a))
      (local.set $sum (f32x4.add (local.get $sum) (local.get $a)))
      (local.set $q (i32.add (local.get $q) (i32.const 16)))
      (br_if $exp (i32.lt_u (local.get $q) (local.get $last))))
;;@ end
    (local.set $a (f32x4.pmin (f32x4.sub (local.get $m) (v128.load (local.get $last))) @[60]))
;;@ use exp_negative a=$a
;;@ if width % 4
    (local.set $a (v128.and (local.get $a) (v128.const i32x4
;;@ for i in 0..4
      @{0 - (i < width % 4)}
;;@ end
    )))
;;@ end
    (v128.store (local.get $last) (local.get $a))
    (local.set $sum (f32x4.add (local.get $sum) (local.get $a)))
    (local.set $sum (f32x4.add (local.get $sum)
      (i8x16.shuffle 8 9 10 11 12 13 14 15 0 1 2 3 4 5 6 7 (local.get $sum) (local.get $sum))))
    (local.set $sum (f32x4.add (local.get $sum)
      (i8x16.shuffle 4 5 6 7 0 1 2 3 12 13 14 15 8 9 10 11 (local.get $sum) (local.get $sum))))
    (local.set $q (local.get $p))
    (local.set $last (i32.add (local.get $last) (i32.const 16)))
    (loop $divide
      (v128.store (local.get $q) (f32x4.div (v128.load (local.get $q)) (local.get $sum)))
      (local.set $q (i32.add (local.get $q) (i32.const 16)))
      (br_if $divide (i32.lt_u (local.get $q) (local.get $last))))
    (local.set $p (i32.add (local.get $p) (i32.const @{16 * vectors})))
    (br_if $row (i32.lt_u (local.get $p) (local.get $end))))
)
