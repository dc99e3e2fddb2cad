;; A dense layer's sums in whole numbers, exact:  y = bias + u @ weights  in i32,  for one row, 4 outputs at a time.
;;
;; u = q + 128 comes in two halves of 4 bits (split.wat), so that i16x8.relaxed_dot_i8x16_i7x16_s is the same on every
;; machine: its second operand is below 2^7, and a sum of two products within 2 * 128 * 15.  8 of these fit i16, so
;; sums of 8 vectors widen together: 4.25 operations for 16 products, weights of 8 bits, each read once.
;; steps: vectors of 16 values, in `groups` of up to 8; packed weights, for each 4 outputs: step by step a vector each.
;; A branch on $never, which is 0, keeps arithmetic beside its loads (dense_f32/gemv.wat).
;;@ define widen
    (block $out
;;@ for o in 0..4
      (local.set $a@{o} (i32x4.add (local.get $a@{o}) (i32x4.add
        (i32x4.dot_i16x8_s (local.get $h@{o}) (v128.const i32x4 0x100010 0x100010 0x100010 0x100010))
        (i32x4.dot_i16x8_s (local.get $l@{o}) (v128.const i32x4 0x10001 0x10001 0x10001 0x10001)))))
;;@ end
      (br_if $out (local.get $never)))
;;@ end
;;@ define step
      (local.set $h (v128.load offset=@{32 * s} (local.get $xp)))
      (local.set $l (v128.load offset=@{32 * s + 16} (local.get $xp)))
;;@ for o in 0..4
      (local.set $w@{o} (v128.load offset=@{64 * s + 16 * o} (local.get $w)))
;;@ end
;;@ for o in 0..4
;;@ if s % 8 == 0
      (local.set $h@{o} (i16x8.relaxed_dot_i8x16_i7x16_s (local.get $w@{o}) (local.get $h)))
      (local.set $l@{o} (i16x8.relaxed_dot_i8x16_i7x16_s (local.get $w@{o}) (local.get $l)))
;;@ else
      (local.set $h@{o} (i16x8.add (local.get $h@{o})
        (i16x8.relaxed_dot_i8x16_i7x16_s (local.get $w@{o}) (local.get $h))))
      (local.set $l@{o} (i16x8.add (local.get $l@{o})
        (i16x8.relaxed_dot_i8x16_i7x16_s (local.get $w@{o}) (local.get $l))))
;;@ end
;;@ end
      (br_if $out (local.get $never))
;;@ end
(func $@{name} (param $x i32) (param $w i32) (param $bias i32) (param $y i32) (param $never i32)
  (local $n i32) (local $k i32) (local $xp i32) (local $h v128) (local $l v128)
;;@ for o in 0..4
  (local $h@{o} v128) (local $l@{o} v128) (local $a@{o} v128) (local $w@{o} v128)
;;@ end
  (local.set $n (i32.const @{quads}))
  (loop $quad
    (local.set $xp (local.get $x))
;;@ for o in 0..4
    (local.set $a@{o} (v128.const i32x4 0 0 0 0))
;;@ end
;;@ if bodies > 1
    (v128.store (local.get $y) (v128.load (local.get $bias)))
    (local.set $k (i32.const @{bodies}))
    (loop $body
;;@ for o in 0..4
    (local.set $a@{o} (v128.const i32x4 0 0 0 0))
;;@ end
;;@ end
;;@ for g in 0..(steps + 7) // 8
    (block $out
;;@ for s in 8 * g..8 * g + 8
;;@ if s < steps
;;@ use step
;;@ end
;;@ end
    )
;;@ use widen
;;@ end
    (local.set $w (i32.add (local.get $w) (i32.const @{64 * steps})))
    (local.set $h0 (i32x4.add
      (i8x16.shuffle 0 1 2 3 16 17 18 19 4 5 6 7 20 21 22 23 (local.get $a0) (local.get $a1))
      (i8x16.shuffle 8 9 10 11 24 25 26 27 12 13 14 15 28 29 30 31 (local.get $a0) (local.get $a1))))
    (local.set $h1 (i32x4.add
      (i8x16.shuffle 0 1 2 3 16 17 18 19 4 5 6 7 20 21 22 23 (local.get $a2) (local.get $a3))
      (i8x16.shuffle 8 9 10 11 24 25 26 27 12 13 14 15 28 29 30 31 (local.get $a2) (local.get $a3))))
    (v128.store (local.get $y) (i32x4.add
;;@ if bodies > 1
      (v128.load (local.get $y))
;;@ else
      (v128.load (local.get $bias))
;;@ end
      (i32x4.add
      (i8x16.shuffle 0 1 2 3 4 5 6 7 16 17 18 19 20 21 22 23 (local.get $h0) (local.get $h1))
      (i8x16.shuffle 8 9 10 11 12 13 14 15 24 25 26 27 28 29 30 31 (local.get $h0) (local.get $h1)))))
;;@ if bodies > 1
      (local.set $xp (i32.add (local.get $xp) (i32.const @{32 * steps})))
      (br_if $body (local.tee $k (i32.sub (local.get $k) (i32.const 1)))))
;;@ end
    (local.set $bias (i32.add (local.get $bias) (i32.const 16)))
    (local.set $y (i32.add (local.get $y) (i32.const 16)))
    (br_if $quad (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
)
