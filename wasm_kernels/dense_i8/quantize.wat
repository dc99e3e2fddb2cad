;; Rows of float32 (`sums` 0) or of i32 sums (`sums` 1) -> rows of whole numbers, as u8 (`half` 0) or i16 (`half` 1).
;; q = round(t held within low..high, + zero point), halves to even.  NaN counts as the lowest value.
;; t = value / scale: for float32 value * factor, for sums sum * its column's factor (at $f), then, if there is an
;; activation between (`between` 1), activation(that) * factor.
;; $r: the record {factor, low, high, 1.5 * 2^23 + zero point, ..., the bits of 1.5 * 2^23}, a vector each: the fourth added
;; to t leaves q in the low bits.  Every operation but the activation's rounds alike everywhere.
;; u8 needs no bound above: floats order as their bits do, so what is too large becomes 127 in the narrowing.
;; groups: of 16 values (`half`: 8) in a row; `unroll` of them in the loop's body.  What lies behind a row's last value
;; is written too, and is read by nobody.
(func $@{name} (param $x i32) (param $rows i32) (param $f i32) (param $r i32) (param $y i32)
  (local $xp i32) (local $yp i32) (local $fp i32) (local $ye i32) (local $t v128) (local $n v128)
  (local $factor v128) (local $low v128) (local $high v128) (local $magic v128) (local $bits v128)
;;@ for i in 0..4 - 2 * half
  (local $a@{i} v128)
;;@ end
;;@ define hold
;;@ if sums
      (local.set $a@{i} (f32x4.mul (f32x4.convert_i32x4_s (v128.load offset=@{at} (local.get $xp)))
        (v128.load offset=@{at} (local.get $fp))))
;;@ else
      (local.set $a@{i} (v128.load offset=@{at} (local.get $xp)))
;;@ end
;;@ if between
;;@ use @{activation} a=$a@{i}
;;@ end
;;@ if between or sums == 0
      (local.set $a@{i} (f32x4.mul (local.get $a@{i}) (local.get $factor)))
;;@ end
      (local.set $a@{i} (f32x4.pmax (local.get $low) (local.get $a@{i})))
;;@ if half
      (local.set $a@{i} (f32x4.pmin (local.get $a@{i}) (local.get $high)))
;;@ end
      (local.set $a@{i} (i32x4.sub (f32x4.add (local.get $a@{i}) (local.get $magic)) (local.get $bits)))
;;@ end
  (loop $row
    (local.set $xp (local.get $x))
    (local.set $yp (local.get $y))
    (local.set $fp (local.get $f))
    (local.set $ye (i32.add (local.get $y) (i32.const @{16 * groups})))
    (block $out (loop $group
      (local.set $factor (v128.load (local.get $r)))
      (local.set $low (v128.load offset=16 (local.get $r)))
;;@ if half
      (local.set $high (v128.load offset=32 (local.get $r)))
;;@ end
      (local.set $magic (v128.load offset=48 (local.get $r)))
      (local.set $bits (v128.load offset=96 (local.get $r)))
;;@ for u in 0..unroll
;;@ for i in 0..4 - 2 * half
;;@ use hold at=@{16 * i + (64 - 32 * half) * u}
;;@ end
;;@ if half
      (v128.store offset=@{16 * u} (local.get $yp) (i16x8.narrow_i32x4_s (local.get $a0) (local.get $a1)))
;;@ else
      (v128.store offset=@{16 * u} (local.get $yp) (i8x16.narrow_i16x8_s
        (i16x8.narrow_i32x4_s (local.get $a0) (local.get $a1)) (i16x8.narrow_i32x4_s (local.get $a2) (local.get $a3))))
;;@ end
;;@ if u < unroll - 1
      (br_if $out (i32.eq (i32.add (local.get $yp) (i32.const @{16 * u + 16})) (local.get $ye)))
;;@ end
;;@ end
      (local.set $xp (i32.add (local.get $xp) (i32.const @{(64 - 32 * half) * unroll})))
;;@ if sums
      (local.set $fp (i32.add (local.get $fp) (i32.const @{(64 - 32 * half) * unroll})))
;;@ end
      (br_if $group (i32.lt_u (local.tee $yp (i32.add (local.get $yp) (i32.const @{16 * unroll}))) (local.get $ye)))))
    (local.set $x (i32.add (local.get $x) (i32.const @{x_stride})))
    (local.set $y (i32.add (local.get $y) (i32.const @{y_stride})))
    (br_if $row (local.tee $rows (i32.sub (local.get $rows) (i32.const 1)))))
)
