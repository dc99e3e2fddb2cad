;; Rows of an i8 image -> rows of i16 with a margin of the zero point left and right: what a convolution reads.
;; $top: the first row's number in the image, in which rows outside count as the zero point; $count rows.
;; left, row, total: values of a margin, of a row of the image, of a row with both margins; zero: the zero point.
;; Whole vectors are written, so up to 32 bytes behind the last row are overwritten.
;; `times` above 1: each value that many times in a row (row and left count them so), for depthwise multipliers.
(func $@{name} (param $x i32) (param $top i32) (param $count i32) (param $to i32)
  (local $p i32) (local $from i32) (local $end i32) (local $v v128) (local $q i32)
  (loop $row
    (if (i32.lt_u (local.get $top) (i32.const @{height})) (then
;;@ if left
;;@ use fill at=0 values=@{left}
;;@ end
      (local.set $from (i32.add (local.get $x) (i32.mul (local.get $top) (i32.const @{row // times}))))
      (local.set $p (i32.add (local.get $to) (i32.const @{2 * left})))
      (local.set $end (i32.add (local.get $p) (i32.const @{2 * row})))
;;@ if times == 1
      (loop $copy
        (local.set $v (v128.load (local.get $from)))
        (v128.store (local.get $p) (i16x8.extend_low_i8x16_s (local.get $v)))
        (v128.store offset=16 (local.get $p) (i16x8.extend_high_i8x16_s (local.get $v)))
        (local.set $from (i32.add (local.get $from) (i32.const 16)))
        (br_if $copy (i32.lt_u (local.tee $p (i32.add (local.get $p) (i32.const 32))) (local.get $end))))
;;@ else
      (loop $copy
        (local.set $q (i32.load8_s (local.get $from)))
        (local.set $v (i16x8.splat (local.get $q)))
;;@ for i in 0..(times + 7) // 8
        (v128.store offset=@{16 * i} (local.get $p) (local.get $v))
;;@ end
        (local.set $from (i32.add (local.get $from) (i32.const 1)))
        (br_if $copy (i32.lt_u (local.tee $p (i32.add (local.get $p) (i32.const @{2 * times}))) (local.get $end))))
;;@ end
;;@ if total - left - row
;;@ use fill at=@{2 * left + 2 * row} values=@{total - left - row}
;;@ end
    ) (else
;;@ use fill at=0 values=@{total}
    ))
    (local.set $top (i32.add (local.get $top) (i32.const 1)))
    (local.set $to (i32.add (local.get $to) (i32.const @{2 * total})))
    (br_if $row (local.tee $count (i32.sub (local.get $count) (i32.const 1)))))
)
;;@ define fill
      (local.set $p (i32.add (local.get $to) (i32.const @{at})))
      (local.set $end (i32.add (local.get $p) (i32.const @{2 * values})))
      (local.set $v (v128.const i16x8 @{zero} @{zero} @{zero} @{zero} @{zero} @{zero} @{zero} @{zero}))
      (loop $fill
        (v128.store (local.get $p) (local.get $v))
        (br_if $fill (i32.lt_u (local.tee $p (i32.add (local.get $p) (i32.const 16))) (local.get $end))))
;;@ end
