;; A dense layer's sums in whole numbers, exact:  y = bias + x @ kept weights  in i32,  for one row, 4 outputs at a time;
;; x: bytes, weights: split so that `group` vectors of products of any bytes fit i16 (compile/held.py).
;;
;; The packed weights lie as dense.wat reads them: `bodies` bodies of `steps` vectors for each 4 outputs.  Operations for 16
;; products: 3 with a group of 1, 2.5 with 2, of which 2 and 1.5 multiply; dense.wat has 4.25, of which 2.25 do.
;; A branch on $never, which is 0, behind 4 vectors of weights keeps arithmetic beside its loads (dense_f32/gemv.wat).
;;@ define products
;;@ for g in 0..count
      (local.set $x@{g} (v128.load offset=@{16 * (first + g)} (local.get $xp)))
;;@ end
;;@ for o in 0..4
      (local.set $s (i16x8.relaxed_dot_i8x16_i7x16_s
        (v128.load offset=@{64 * first + 16 * o} (local.get $w)) (local.get $x0)))
;;@ for g in 1..count
      (local.set $s (i16x8.add (local.get $s) (i16x8.relaxed_dot_i8x16_i7x16_s
        (v128.load offset=@{64 * (first + g) + 16 * o} (local.get $w)) (local.get $x@{g}))))
;;@ end
      (local.set $s (i32x4.dot_i16x8_s (local.get $s) (v128.const i32x4 0x10001 0x10001 0x10001 0x10001)))
;;@ if first
      (local.set $a@{o} (i32x4.add (local.get $a@{o}) (local.get $s)))
;;@ else
      (local.set $a@{o} (local.get $s))
;;@ end
;;@ if (o + 1) * count % 4 == 0
      (br_if $out (local.get $never))
;;@ end
;;@ end
;;@ end
(func $@{name} (param $x i32) (param $w i32) (param $bias i32) (param $y i32) (param $never i32)
  (local $n i32) (local $k i32) (local $xp i32) (local $s v128)
;;@ for o in 0..4
  (local $a@{o} v128) (local $x@{o} v128)
;;@ end
  (local.set $n (i32.const @{quads}))
  (loop $quad
    (local.set $xp (local.get $x))
;;@ if bodies > 1
    (v128.store (local.get $y) (v128.load (local.get $bias)))
    (local.set $k (i32.const @{bodies}))
    (loop $body
;;@ end
    (block $out
;;@ for g in 0..steps // group
;;@ use products first=@{g * group} count=@{group}
;;@ end
;;@ for g in steps // group * group..steps
;;@ use products first=@{g} count=1
;;@ end
    )
    (local.set $w (i32.add (local.get $w) (i32.const @{64 * steps})))
    (local.set $a0 (i32x4.add
      (i8x16.shuffle 0 1 2 3 16 17 18 19 4 5 6 7 20 21 22 23 (local.get $a0) (local.get $a1))
      (i8x16.shuffle 8 9 10 11 24 25 26 27 12 13 14 15 28 29 30 31 (local.get $a0) (local.get $a1))))
    (local.set $a2 (i32x4.add
      (i8x16.shuffle 0 1 2 3 16 17 18 19 4 5 6 7 20 21 22 23 (local.get $a2) (local.get $a3))
      (i8x16.shuffle 8 9 10 11 24 25 26 27 12 13 14 15 28 29 30 31 (local.get $a2) (local.get $a3))))
    (v128.store (local.get $y) (i32x4.add
;;@ if bodies > 1
      (v128.load (local.get $y))
;;@ else
      (v128.load (local.get $bias))
;;@ end
      (i32x4.add
      (i8x16.shuffle 0 1 2 3 4 5 6 7 16 17 18 19 20 21 22 23 (local.get $a0) (local.get $a2))
      (i8x16.shuffle 8 9 10 11 12 13 14 15 24 25 26 27 28 29 30 31 (local.get $a0) (local.get $a2)))))
;;@ if bodies > 1
      (local.set $xp (i32.add (local.get $xp) (i32.const @{16 * steps})))
      (br_if $body (local.tee $k (i32.sub (local.get $k) (i32.const 1)))))
;;@ end
    (local.set $bias (i32.add (local.get $bias) (i32.const 16)))
    (local.set $y (i32.add (local.get $y) (i32.const 16)))
    (br_if $quad (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
)
