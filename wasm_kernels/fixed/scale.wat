;; Four whole numbers of 32 bits times multiplier / 2^31 * 2^shift, rounded as TFLite rounds (model/fixed_point.py), with
;; numbers that are constants.  Left shifts come first, and wrap.  The product's high half, rounded: + 2^30, >> 31.
;; A right shift rounds halves away from 0: half of it is added, less one below 0.  It must not overflow: after it |a| < 2^30.
;;@ if shift > 0
(local.set @{a} (i32x4.shl (local.get @{a}) (i32.const @{shift})))
;;@ end
(local.set @{a} (i8x16.shuffle 0 1 2 3 8 9 10 11 16 17 18 19 24 25 26 27
  (i64x2.shr_u (i64x2.add (i64x2.extmul_low_i32x4_s (local.get @{a}) (i32x4.splat (i32.const @{multiplier})))
    (v128.const i64x2 0x40000000 0x40000000)) (i32.const 31))
  (i64x2.shr_u (i64x2.add (i64x2.extmul_high_i32x4_s (local.get @{a}) (i32x4.splat (i32.const @{multiplier})))
    (v128.const i64x2 0x40000000 0x40000000)) (i32.const 31))))
;;@ if shift < 0
(local.set @{a} (i32x4.shr_s (i32x4.add (i32x4.add (local.get @{a}) (i32x4.shr_s (local.get @{a}) (i32.const 31)))
  (i32x4.splat (i32.const @{half}))) (i32.const @{0 - shift})))
;;@ end
