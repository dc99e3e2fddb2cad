;; `groups` groups of 16 float32 -> 16 whole numbers: round(x / scale), halves away from 0, + zero, held within -128..127.
;; NaN counts as the lowest value (pmax(low, NaN) is low).  y may begin where x does: it is shorter.
;; Away from 0: the largest number below a half is added with the sign of t, then the fraction is cut off; that is exact
;; while |t| < 2^22, and t is held within +-1024.
;; `lowest`: the zero point is the lowest number.  All below it is the same, whatever its sign does to a half; nor need it
;; be held, for what i32 does not hold becomes its lowest or, of NaN, 0.
;; divide, by: f32x4.div and the scale, or, where that is as exact, f32x4.mul and what 1 is by it.
;;@ define value
    (local.set $t (@{divide} (v128.load offset=@{16 * i} (local.get $x)) (v128.const f32x4 @{by} @{by} @{by} @{by})))
;;@ if lowest
    (local.set $a@{i} (@{trunc} (f32x4.add (f32x4.pmin (local.get $t) @[1024]) @[0x1.fffffep-2])))
;;@ else
    (local.set $t (f32x4.pmin (f32x4.pmax @[-1024] (local.get $t)) @[1024]))
    (local.set $a@{i} (@{trunc} (f32x4.add (local.get $t)
      (v128.or (v128.and (local.get $t) (v128.const i32x4 0x80000000 0x80000000 0x80000000 0x80000000))
        @[0x1.fffffep-2]))))
;;@ end
;;@ end
(func $@{name} (param $x i32) (param $y i32) (local $end i32) (local $t v128)
;;@ for i in 0..4
  (local $a@{i} v128)
;;@ end
  (local.set $end (i32.add (local.get $y) (i32.const @{16 * groups})))
  (loop $next
;;@ for i in 0..4
;;@ use value
;;@ end
;;@ if lowest
    (v128.store (local.get $y) (v128.xor (i8x16.splat (i32.const 128)) (i8x16.narrow_i16x8_u
      (i16x8.narrow_i32x4_s (local.get $a0) (local.get $a1)) (i16x8.narrow_i32x4_s (local.get $a2) (local.get $a3)))))
;;@ else
    (v128.store (local.get $y) (i8x16.narrow_i16x8_s
      (i16x8.add_sat_s (i16x8.narrow_i32x4_s (local.get $a0) (local.get $a1)) (i16x8.splat (i32.const @{zero})))
      (i16x8.add_sat_s (i16x8.narrow_i32x4_s (local.get $a2) (local.get $a3)) (i16x8.splat (i32.const @{zero})))))
;;@ end
    (local.set $x (i32.add (local.get $x) (i32.const 64)))
    (br_if $next (i32.lt_u (local.tee $y (i32.add (local.get $y) (i32.const 16))) (local.get $end))))
)
