;; softmax of each row from $p to $end: e^(x - max) / sum of e^(x - max), over the row's `width` true values.
;; vectors: vectors of 4 in a row; the lanes behind the width count neither for the maximum nor for the sum.
;; x - max is held above -60: nothing becomes denormal, and what is lost is below 1e-26.
;; NaN or +inf anywhere in a row makes the whole row NaN.  Sum: lane by lane over the vectors, then (0+2)+(1+3).
;; Rows of up to 8 vectors are written out, longer ones take 4 a round: a loop's check of the epoch and its constants
;; cost as much as a vector.
(func $@{name} (param $p i32) (param $end i32)
  (local $q i32) (local $stop i32) (local $last i32)
  (local $a v128) (local $m v128) (local $sum v128) (local $t v128) (local $n v128)
;;@ define masked
;;@ if width % 4
  (local.set $a (v128.bitselect (local.get $a) @[-inf] (v128.const i32x4
;;@ for i in 0..4
    @{0 - (i < width % 4)}
;;@ end
  )))
;;@ end
;;@ end
;;@ define max
  (local.set $m (f32x4.pmax (local.get $m) (v128.load offset=@{at} (local.get @{q}))))
;;@ end
;;@ define exp
  (local.set $a (f32x4.pmin (f32x4.sub (local.get $m) (v128.load offset=@{at} (local.get @{q}))) @[60]))
;;@ use exp_negative a=$a
;;@ end
;;@ define add
  (v128.store offset=@{at} (local.get @{q}) (local.get $a))
  (local.set $sum (f32x4.add (local.get $sum) (local.get $a)))
;;@ end
;;@ define divide
  (v128.store offset=@{at} (local.get @{q}) (f32x4.div (v128.load offset=@{at} (local.get @{q})) (local.get $sum)))
;;@ end
  (loop $row
    (local.set $last (i32.add (local.get $p) (i32.const @{16 * (vectors - 1)})))
    (local.set $a (v128.load (local.get $last)))
;;@ use masked
    (local.set $m (local.get $a))
;;@ if vectors > 8
    (local.set $q (local.get $p))
    (local.set $stop (i32.add (local.get $p) (i32.const @{(vectors - 1) // 4 * 64})))
    (loop $max
;;@ for u in 0..4
;;@ use max at=@{16 * u} q=$q
;;@ end
      (local.set $q (i32.add (local.get $q) (i32.const 64)))
      (br_if $max (i32.lt_u (local.get $q) (local.get $stop))))
;;@ for u in 0..(vectors - 1) % 4
;;@ use max at=@{16 * u} q=$q
;;@ end
;;@ else
;;@ for v in 0..vectors - 1
;;@ use max at=@{16 * v} q=$p
;;@ end
;;@ end
    (local.set $m (f32x4.pmax (local.get $m)
      (i8x16.shuffle 8 9 10 11 12 13 14 15 0 1 2 3 4 5 6 7 (local.get $m) (local.get $m))))
    (local.set $m (f32x4.pmax (local.get $m)
      (i8x16.shuffle 4 5 6 7 0 1 2 3 12 13 14 15 8 9 10 11 (local.get $m) (local.get $m))))
    (local.set $sum @[0])
;;@ if vectors > 8
    (local.set $q (local.get $p))
    (local.set $stop (i32.add (local.get $p) (i32.const @{(vectors - 1) // 4 * 64})))
    (loop $exp
;;@ for u in 0..4
;;@ use exp at=@{16 * u} q=$q
;;@ use add at=@{16 * u} q=$q
;;@ end
      (local.set $q (i32.add (local.get $q) (i32.const 64)))
      (br_if $exp (i32.lt_u (local.get $q) (local.get $stop))))
;;@ for u in 0..(vectors - 1) % 4
;;@ use exp at=@{16 * u} q=$q
;;@ use add at=@{16 * u} q=$q
;;@ end
;;@ else
;;@ for v in 0..vectors - 1
;;@ use exp at=@{16 * v} q=$p
;;@ use add at=@{16 * v} q=$p
;;@ end
;;@ end
;;@ use exp at=0 q=$last
;;@ if width % 4
    (local.set $a (v128.and (local.get $a) (v128.const i32x4
;;@ for i in 0..4
      @{0 - (i < width % 4)}
;;@ end
    )))
;;@ end
;;@ if vectors == 1
    (local.set $sum (local.get $a))
;;@ else
;;@ use add at=0 q=$last
;;@ end
    (local.set $sum (f32x4.add (local.get $sum)
      (i8x16.shuffle 8 9 10 11 12 13 14 15 0 1 2 3 4 5 6 7 (local.get $sum) (local.get $sum))))
    (local.set $sum (f32x4.add (local.get $sum)
      (i8x16.shuffle 4 5 6 7 0 1 2 3 12 13 14 15 8 9 10 11 (local.get $sum) (local.get $sum))))
;;@ if vectors == 1
    (v128.store (local.get $p) (f32x4.div (local.get $a) (local.get $sum)))
;;@ else
;;@ if vectors > 8
    (local.set $q (local.get $p))
    (local.set $stop (i32.add (local.get $p) (i32.const @{vectors // 4 * 64})))
    (loop $divide
;;@ for u in 0..4
;;@ use divide at=@{16 * u} q=$q
;;@ end
      (local.set $q (i32.add (local.get $q) (i32.const 64)))
      (br_if $divide (i32.lt_u (local.get $q) (local.get $stop))))
;;@ for u in 0..vectors % 4
;;@ use divide at=@{16 * u} q=$q
;;@ end
;;@ else
;;@ for v in 0..vectors
;;@ use divide at=@{16 * v} q=$p
;;@ end
;;@ end
;;@ end
    (local.set $p (i32.add (local.get $p) (i32.const @{16 * vectors})))
    (br_if $row (i32.lt_u (local.get $p) (local.get $end))))
)
