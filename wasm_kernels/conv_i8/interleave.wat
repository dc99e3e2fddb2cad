;; Two rows of an i8 image, value beside value and widened to i16: what a depthwise convolution reads (rows.wat).
;; $top: the first row's number in the image; rows outside it are read at $outside, which holds a row of zero points.
;; left, row, total: values of a margin, of a row of the image, of a row with both margins; zero: the zero point.
;; Whole vectors are written, so up to 64 bytes behind the row are overwritten.
(func $@{name} (param $x i32) (param $top i32) (param $outside i32) (param $to i32)
  (local $p i32) (local $a i32) (local $b i32) (local $end i32) (local $v v128) (local $u v128) (local $w v128)
  (local.set $a (select (i32.add (local.get $x) (i32.mul (local.get $top) (i32.const @{row}))) (local.get $outside)
    (i32.lt_u (local.get $top) (i32.const @{height}))))
  (local.set $top (i32.add (local.get $top) (i32.const 1)))
  (local.set $b (select (i32.add (local.get $x) (i32.mul (local.get $top) (i32.const @{row}))) (local.get $outside)
    (i32.lt_u (local.get $top) (i32.const @{height}))))
;;@ if left
;;@ use fill at=0 values=@{left}
;;@ end
  (local.set $p (i32.add (local.get $to) (i32.const @{4 * left})))
  (local.set $end (i32.add (local.get $p) (i32.const @{4 * row})))
  (loop $copy
    (local.set $v (v128.load (local.get $a)))
    (local.set $w (v128.load (local.get $b)))
    (local.set $u (i8x16.shuffle 0 16 1 17 2 18 3 19 4 20 5 21 6 22 7 23 (local.get $v) (local.get $w)))
    (local.set $v (i8x16.shuffle 8 24 9 25 10 26 11 27 12 28 13 29 14 30 15 31 (local.get $v) (local.get $w)))
    (v128.store (local.get $p) (i16x8.extend_low_i8x16_s (local.get $u)))
    (v128.store offset=16 (local.get $p) (i16x8.extend_high_i8x16_s (local.get $u)))
    (v128.store offset=32 (local.get $p) (i16x8.extend_low_i8x16_s (local.get $v)))
    (v128.store offset=48 (local.get $p) (i16x8.extend_high_i8x16_s (local.get $v)))
    (local.set $a (i32.add (local.get $a) (i32.const 16)))
    (local.set $b (i32.add (local.get $b) (i32.const 16)))
    (br_if $copy (i32.lt_u (local.tee $p (i32.add (local.get $p) (i32.const 64))) (local.get $end))))
;;@ if total - left - row
;;@ use fill at=@{4 * left + 4 * row} values=@{total - left - row}
;;@ end
)
;;@ define fill
  (local.set $p (i32.add (local.get $to) (i32.const @{at})))
  (local.set $end (i32.add (local.get $p) (i32.const @{4 * values})))
  (local.set $v (v128.const i16x8 @{zero} @{zero} @{zero} @{zero} @{zero} @{zero} @{zero} @{zero}))
  (loop $fill
    (v128.store (local.get $p) (local.get $v))
    (br_if $fill (i32.lt_u (local.tee $p (i32.add (local.get $p) (i32.const 16))) (local.get $end))))
;;@ end
