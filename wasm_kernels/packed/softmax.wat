;; softmax of $groups groups of four agents at $p, `width` vectors a group, each lane an agent's row: as
;; activations/softmax.wat, with nothing to do across lanes.
(func $@{name} (param $p i32) (param $groups i32)
  (local $a v128) (local $m v128) (local $sum v128) (local $t v128) (local $n v128) (local $q i32) (local $end i32)
  (loop $group
    (local.set $end (i32.add (local.get $p) (i32.const @{16 * width})))
    (local.set $m (v128.load (local.get $p)))
    (local.set $q (local.get $p))
    (loop $max
      (local.set $m (f32x4.pmax (local.get $m) (v128.load (local.get $q))))
      (br_if $max (i32.lt_u (local.tee $q (i32.add (local.get $q) (i32.const 16))) (local.get $end))))
    (local.set $sum @[0])
    (local.set $q (local.get $p))
    (loop $exp
      (local.set $a (f32x4.pmin (f32x4.sub (local.get $m) (v128.load (local.get $q))) @[60]))
;;@ use exp_negative a=$a
      (v128.store (local.get $q) (local.get $a))
      (local.set $sum (f32x4.add (local.get $sum) (local.get $a)))
      (br_if $exp (i32.lt_u (local.tee $q (i32.add (local.get $q) (i32.const 16))) (local.get $end))))
    (local.set $q (local.get $p))
    (loop $divide
      (v128.store (local.get $q) (f32x4.div (v128.load (local.get $q)) (local.get $sum)))
      (br_if $divide (i32.lt_u (local.tee $q (i32.add (local.get $q) (i32.const 16))) (local.get $end))))
    (local.set $p (local.get $end))
    (br_if $group (local.tee $groups (i32.sub (local.get $groups) (i32.const 1)))))
)
