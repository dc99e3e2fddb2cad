;; i32 sums -> i8, exactly as TFLite's reference: q = clamp(round(round(sum * multiplier / 2^31) / 2^s) + zero point),
;; the inner rounding to nearest with halves up, the outer one with halves away from 0; `places` rows of sums.
;;
;; In float64, whose products are exact here (pack_conv_i8.py tells when, and sends the rest to requantise_any.wat):
;; with p = sum * multiplier / 2^(31 + s) both roundings are one, floor(p + 1/2 + 2^-(s + 1)) for sum >= 0 and
;; floor(p + 1/2 - 2^-(s + 1)) below, for floor((floor(z) + k) / n) = floor((z + k) / n).  Adding half of p's grid,
;; 2^-(32 + s), makes ties impossible, so that the rounding to nearest of an addition of 1.5 * 2^52 does it, and leaves
;; the whole number in the low 32 bits.  Products are exact, or beyond what the clamp ends: fused or not is the same.
;; `signed` 0: what lies below 0 is the same after the clamp, for low is the zero point; one constant serves.  So it does
;; for dense layers, which round once, halves up: floor(p + 1/2).
;;
;; $f: for each 4 outputs, in float64: 4 factors, then 4 of what is added; if signed: the grid's half, and 2^-(s + 1).
;; $r: the record: 1.5 * 2^52 + zero point twice, the zero point (i16), low and high in 16 lanes of i8, the signs of f64.
;; vectors: of sums, in a row of `y_step` bytes here, `out_step` bytes there; up to 15 bytes are written behind a row.
;; together: places that fill a vector of bytes and count as a row, with factors every `period` vectors.
;; Arithmetic stays behind the loads before it only as far as a branch that its results live behind: one on $never, which
;; is 0, follows each vector.
;;@ define one
        (local.set $s (v128.load offset=@{16 * v} (local.get $x)))
        (local.set $d0 (f64x2.convert_low_i32x4_s (local.get $s)))
        (local.set $d1 (f64x2.convert_low_i32x4_s (i8x16.shuffle 8 9 10 11 12 13 14 15 8 9 10 11 12 13 14 15
          (local.get $s) (local.get $s))))
;;@ if signed
;;@ for h in 0..2
        (local.set $e@{h} (v128.or (v128.and (local.get $d@{h}) (local.get $sign))
          (v128.load offset=@{96 * (v % period) + 64 + 16 * h} (local.get $f))))
        (local.set $d@{h} (f64x2.add (local.get $magic) (f64x2.add (local.get $e@{h})
          (f64x2.relaxed_madd (local.get $d@{h}) (v128.load offset=@{96 * (v % period) + 16 * h} (local.get $f))
            (v128.load offset=@{96 * (v % period) + 32 + 16 * h} (local.get $f))))))
;;@ end
;;@ else
;;@ for h in 0..2
        (local.set $d@{h} (f64x2.add (local.get $magic)
          (f64x2.relaxed_madd (local.get $d@{h}) (v128.load offset=@{64 * (v % period) + 16 * h} (local.get $f))
            (v128.load offset=@{64 * (v % period) + 32 + 16 * h} (local.get $f)))))
;;@ end
;;@ end
        (local.set $q@{v % 4} (i8x16.shuffle 0 1 2 3 8 9 10 11 16 17 18 19 24 25 26 27 (local.get $d0) (local.get $d1)))
        (br_if $out (local.get $never))
;;@ end
;;@ define four
      (block $out
        (local.set $magic (v128.load (local.get $r)))
;;@ if signed
        (local.set $sign (v128.load offset=64 (local.get $r)))
;;@ end
;;@ for v in v0..v0 + 4
;;@ if v < vectors
;;@ use one v=@{v}
;;@ else
        (local.set $q@{v % 4} (local.get $q0))
;;@ end
;;@ end
      )
      (local.set $q0 (i8x16.narrow_i16x8_s
        (i16x8.narrow_i32x4_s (local.get $q0) (local.get $q1)) (i16x8.narrow_i32x4_s (local.get $q2) (local.get $q3))))
;;@ if low > -128
      (local.set $q0 (i8x16.max_s (v128.load offset=32 (local.get $r)) (local.get $q0)))
;;@ end
;;@ if high < 127
      (local.set $q0 (i8x16.min_s (v128.load offset=48 (local.get $r)) (local.get $q0)))
;;@ end
      (v128.store offset=@{4 * v0} (local.get $y) (local.get $q0))
;;@ end
(func $@{name} (param $x i32) (param $f i32) (param $r i32) (param $y i32) (param $places i32) (param $never i32)
  (local $s v128) (local $d0 v128) (local $d1 v128) (local $e0 v128) (local $e1 v128)
  (local $q0 v128) (local $q1 v128) (local $q2 v128) (local $q3 v128)
  (local $magic v128) (local $sign v128)
;;@ if together > 1
  (local.set $places (i32.div_u (i32.add (local.get $places) (i32.const @{together - 1})) (i32.const @{together})))
;;@ end
  (loop $place
;;@ for w in 0..(vectors + 3) // 4
;;@ use four v0=@{4 * w}
;;@ end
    (local.set $x (i32.add (local.get $x) (i32.const @{y_step})))
    (local.set $y (i32.add (local.get $y) (i32.const @{out_step})))
    (br_if $place (local.tee $places (i32.sub (local.get $places) (i32.const 1)))))
)
