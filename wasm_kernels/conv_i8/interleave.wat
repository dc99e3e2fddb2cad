;; Two rows of an i8 image, value beside value and widened to i16: what a depthwise convolution reads (rows.wat).
;; $top: the first row's number in the image; rows outside it are read at $outside, which holds a row of zero points.
;; left, row, total: values of a margin, of a row of the image, of a row with both margins; zero: the zero point.
;; Whole vectors are written, so up to 64 bytes behind the row are overwritten, and then margins are filled again:
;; `margins`; else they stay as they are, or there are none.  unroll: vectors of a row that a pass takes.
(func $@{name} (param $x i32) (param $top i32) (param $outside i32) (param $to i32)
  (local $p i32) (local $a i32) (local $b i32) (local $end i32) (local $v v128) (local $u v128)
  (local.set $a (select (i32.add (local.get $x) (i32.mul (local.get $top) (i32.const @{row}))) (local.get $outside)
    (i32.lt_u (local.get $top) (i32.const @{height}))))
  (local.set $top (i32.add (local.get $top) (i32.const 1)))
  (local.set $b (select (i32.add (local.get $x) (i32.mul (local.get $top) (i32.const @{row}))) (local.get $outside)
    (i32.lt_u (local.get $top) (i32.const @{height}))))
;;@ if margins and left
;;@ use fill at=0 values=@{left}
;;@ end
  (local.set $p (i32.add (local.get $to) (i32.const @{4 * left})))
  (local.set $end (i32.add (local.get $p) (i32.const @{4 * row})))
  (loop $copy
;;@ for i in 0..2 * unroll
    (local.set $v (v128.load8x8_s offset=@{8 * i} (local.get $a)))
    (local.set $u (v128.load8x8_s offset=@{8 * i} (local.get $b)))
    (v128.store offset=@{32 * i} (local.get $p)
      (i8x16.shuffle 0 1 16 17 2 3 18 19 4 5 20 21 6 7 22 23 (local.get $v) (local.get $u)))
    (v128.store offset=@{32 * i + 16} (local.get $p)
      (i8x16.shuffle 8 9 24 25 10 11 26 27 12 13 28 29 14 15 30 31 (local.get $v) (local.get $u)))
;;@ end
    (local.set $a (i32.add (local.get $a) (i32.const @{16 * unroll})))
    (local.set $b (i32.add (local.get $b) (i32.const @{16 * unroll})))
    (br_if $copy (i32.lt_u (local.tee $p (i32.add (local.get $p) (i32.const @{64 * unroll}))) (local.get $end))))
;;@ if margins and total > left + row
;;@ use fill at=@{4 * left + 4 * row} values=@{total - left - row}
;;@ end
)
;;@ define fill
  (local.set $p (i32.add (local.get $to) (i32.const @{at})))
  (local.set $end (i32.add (local.get $p) (i32.const @{4 * values})))
  (loop $fill
    (v128.store (local.get $p) (i16x8.splat (i32.const @{zero})))
    (br_if $fill (i32.lt_u (local.tee $p (i32.add (local.get $p) (i32.const 16))) (local.get $end))))
;;@ end
