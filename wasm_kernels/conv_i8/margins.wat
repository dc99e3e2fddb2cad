;; Rows of an i8 image -> the same with margins of the zero point left and right: what tiles_in.wat reads.
;; $top, $count, left, row, total, zero: as in widen.wat, all of them in bytes.  `unroll` vectors are a round of the copy,
;; `vectors` of them a row.  Whole vectors are written, so up to 15 bytes behind the last row are overwritten.
(func $@{name} (param $x i32) (param $top i32) (param $count i32) (param $to i32)
  (local $p i32) (local $from i32) (local $end i32) (local $v v128)
  (loop $row
    (local.set $v (i8x16.splat (i32.const @{zero})))
    (if (i32.lt_u (local.get $top) (i32.const @{height})) (then
;;@ if left
;;@ use fill at=0 values=@{left}
;;@ end
      (local.set $from (i32.add (local.get $x) (i32.mul (local.get $top) (i32.const @{row}))))
      (local.set $p (i32.add (local.get $to) (i32.const @{left})))
      (local.set $end (i32.add (local.get $p) (i32.const @{16 * vectors})))
      (loop $copy
;;@ for u in 0..unroll
        (v128.store offset=@{16 * u} (local.get $p) (v128.load offset=@{16 * u} (local.get $from)))
;;@ end
        (local.set $from (i32.add (local.get $from) (i32.const @{16 * unroll})))
        (br_if $copy (i32.lt_u (local.tee $p (i32.add (local.get $p) (i32.const @{16 * unroll}))) (local.get $end))))
;;@ if total - left - row
;;@ use fill at=@{left + row} values=@{total - left - row}
;;@ end
    ) (else
;;@ use fill at=0 values=@{total}
    ))
    (local.set $top (i32.add (local.get $top) (i32.const 1)))
    (local.set $to (i32.add (local.get $to) (i32.const @{total})))
    (br_if $row (local.tee $count (i32.sub (local.get $count) (i32.const 1)))))
)
;;@ define fill
      (local.set $p (i32.add (local.get $to) (i32.const @{at})))
      (local.set $end (i32.add (local.get $p) (i32.const @{values})))
      (loop $fill
        (v128.store (local.get $p) (local.get $v))
        (br_if $fill (i32.lt_u (local.tee $p (i32.add (local.get $p) (i32.const 16))) (local.get $end))))
;;@ end
