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
;; Where packing has found a factor and an addend in float32 with which a truncation gives the same number for every sum
;; that can come (pack_short.py), that does: half the operations.  It says so for each 16 outputs.  `short_signed` 0: what
;; lies below the zero point is the same after the clamp.
;;
;; $f: for each 4 outputs, in float64: 4 factors, then 4 of what is added; if signed: the grid's half, and 2^-(s + 1).
;; Behind them, for each 16 outputs, whether instead float32 lies there: 4 factors, 4 addends.
;; $r: the record: 1.5 * 2^52 + zero point twice, the zero point (i16), low and high in 16 lanes of i8, the signs of f64.
;; vectors: of sums, in a row of `y_step` bytes here, `out_step` bytes there; up to 15 bytes are written behind a row.
;; together: places that fill a vector of bytes and count as a row, with factors every `period` vectors.
;; `pairs`: two rows at a time, which share the factors: where none writes into the next.  Arithmetic stays behind the loads before it only as far as a branch that its
;; results live behind: one on $never, which is 0, follows each vector.
;;@ define half
;;@ for i in 0..rows
;;@ if h
        (local.set $d@{i} (f64x2.convert_low_i32x4_s (i8x16.shuffle 8 9 10 11 12 13 14 15 8 9 10 11 12 13 14 15
          (local.get $s@{i}) (local.get $s@{i}))))
;;@ else
        (local.set $c@{i} (f64x2.convert_low_i32x4_s (local.get $s@{i})))
;;@ end
;;@ end
        (local.set $m (v128.load offset=@{kinds * 32 * (v % period) + 16 * h} (local.get $fp)))
        (local.set $o (v128.load offset=@{kinds * 32 * (v % period) + 32 + 16 * h} (local.get $fp)))
;;@ if signed
        (local.set $w (v128.load offset=@{kinds * 32 * (v % period) + 64 + 16 * h} (local.get $fp)))
;;@ end
;;@ for i in 0..rows
;;@ if h
;;@ use round d=d@{i}
;;@ else
;;@ use round d=c@{i}
;;@ end
;;@ end
;;@ end
;;@ define round
;;@ if signed
        (local.set $@{d} (f64x2.add (local.get $magic) (f64x2.add
          (v128.or (v128.and (local.get $@{d}) (local.get $sign)) (local.get $w))
          (f64x2.relaxed_madd (local.get $@{d}) (local.get $m) (local.get $o)))))
;;@ else
        (local.set $@{d} (f64x2.add (local.get $magic)
          (f64x2.relaxed_madd (local.get $@{d}) (local.get $m) (local.get $o))))
;;@ end
;;@ end
;;@ define short
      (block $out
;;@ for v in 0..count
;;@ for i in 0..rows
        (local.set $d@{i} (f32x4.mul (v128.load offset=@{kinds * 32 * (v % period)} (local.get $fp))
          (f32x4.convert_i32x4_s (v128.load offset=@{16 * v + i * y_step} (local.get $xp)))))
        (local.set $o (v128.load offset=@{kinds * 32 * (v % period) + 16} (local.get $fp)))
;;@ if short_signed
        (local.set $o (v128.or (local.get $o) (v128.and (local.get $d@{i})
          (v128.const i32x4 0x80000000 0x80000000 0x80000000 0x80000000))))
;;@ end
        (local.set $q@{4 * i + v} (i32x4.relaxed_trunc_f32x4_s (f32x4.add (local.get $d@{i}) (local.get $o))))
;;@ if v % 2
        (local.set $q@{4 * i + v - 1} (i16x8.narrow_i32x4_s (local.get $q@{4 * i + v - 1}) (local.get $q@{4 * i + v})))
;;@ else
;;@ if v == count - 1
        (local.set $q@{4 * i + v} (i16x8.narrow_i32x4_s (local.get $q@{4 * i + v}) (local.get $q@{4 * i + v})))
;;@ end
;;@ end
;;@ end
;;@ if v % 2 or v == count - 1
        (br_if $out (local.get $never))
;;@ end
;;@ end
      )
      (local.set $w (v128.load offset=16 (local.get $r)))
;;@ for i in 0..rows
;;@ for v in 0..(count + 1) // 2
      (local.set $q@{4 * i + 2 * v} (i16x8.add_sat_s (local.get $q@{4 * i + 2 * v}) (local.get $w)))
;;@ end
;;@ end
;;@ end
;;@ define four
      (if (i32.load (local.get $gp)) (then
;;@ use short
      ) (else
;;@ use long
      ))
      (local.set $gp (i32.add (local.get $gp) (i32.const 4)))
;;@ for i in 0..rows
      (local.set $s0 (i8x16.narrow_i16x8_s (local.get $q@{4 * i}) (local.get $q@{4 * i + 2 * (count > 2)})))
;;@ if low > -128
      (local.set $s0 (i8x16.max_s (v128.load offset=32 (local.get $r)) (local.get $s0)))
;;@ end
;;@ if high < 127
      (local.set $s0 (i8x16.min_s (v128.load offset=48 (local.get $r)) (local.get $s0)))
;;@ end
      (v128.store offset=@{i * out_step} (local.get $yp) (local.get $s0))
;;@ end
;;@ end
;;@ define long
      (block $out
        (local.set $magic (v128.load (local.get $r)))
;;@ if signed
        (local.set $sign (v128.load offset=64 (local.get $r)))
;;@ end
;;@ for v in 0..count
;;@ for i in 0..rows
        (local.set $s@{i} (v128.load offset=@{16 * v + i * y_step} (local.get $xp)))
;;@ end
;;@ use half h=0
;;@ use half h=1
;;@ for i in 0..rows
        (local.set $q@{4 * i + v} (i8x16.shuffle 0 1 2 3 8 9 10 11 16 17 18 19 24 25 26 27
          (local.get $c@{i}) (local.get $d@{i})))
;;@ if v % 2
        (local.set $q@{4 * i + v - 1} (i16x8.narrow_i32x4_s (local.get $q@{4 * i + v - 1}) (local.get $q@{4 * i + v})))
;;@ else
;;@ if v == count - 1
        (local.set $q@{4 * i + v} (i16x8.narrow_i32x4_s (local.get $q@{4 * i + v}) (local.get $q@{4 * i + v})))
;;@ end
;;@ end
;;@ end
        (br_if $out (local.get $never))
;;@ end
      )
;;@ end
;;@ define row
    (local.set $gp (i32.add (local.get $f) (i32.const @{kinds * 32 * period})))
    (local.set $fp (local.get $f))
    (local.set $xp (local.get $x))
    (local.set $yp (local.get $y))
;;@ if vectors > 3
;;@ if vectors > 7
    (local.set $end (i32.add (local.get $x) (i32.const @{vectors // 4 * 64})))
    (loop $group
;;@ end
;;@ use four count=4 rows=@{rows}
      (local.set $xp (i32.add (local.get $xp) (i32.const 64)))
      (local.set $yp (i32.add (local.get $yp) (i32.const 16)))
      (local.set $fp (i32.add (local.get $fp) (i32.const @{kinds * 128})))
;;@ if vectors > 7
      (br_if $group (i32.ne (local.get $xp) (local.get $end))))
;;@ end
;;@ end
;;@ if vectors % 4
;;@ use four count=@{vectors % 4} rows=@{rows}
;;@ end
    (local.set $x (i32.add (local.get $x) (i32.const @{rows * y_step})))
    (local.set $y (i32.add (local.get $y) (i32.const @{rows * out_step})))
;;@ end
(func $@{name} (param $x i32) (param $f i32) (param $r i32) (param $y i32) (param $places i32) (param $never i32)
  (local $xp i32) (local $yp i32) (local $fp i32) (local $gp i32) (local $end i32)
  (local $m v128) (local $o v128) (local $w v128) (local $magic v128) (local $sign v128)
;;@ for i in 0..2
  (local $s@{i} v128) (local $c@{i} v128) (local $d@{i} v128)
;;@ for v in 0..4
  (local $q@{4 * i + v} v128)
;;@ end
;;@ end
;;@ if together > 1
  (local.set $places (i32.div_u (i32.add (local.get $places) (i32.const @{together - 1})) (i32.const @{together})))
;;@ end
;;@ if pairs
  (if (i32.ge_u (local.get $places) (i32.const 2)) (then
    (loop $pair
;;@ use row rows=2
      (br_if $pair (i32.ge_u (local.tee $places (i32.sub (local.get $places) (i32.const 2))) (i32.const 2))))))
;;@ end
  (if (local.get $places) (then
    (loop $one
;;@ use row rows=1
      (br_if $one (local.tee $places (i32.sub (local.get $places) (i32.const 1)))))))
)
