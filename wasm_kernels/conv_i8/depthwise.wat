;; A whole depthwise convolution whose rows are read in pairs: with a stride of 1 two rows of outputs share the pairs that
;; they read (the second with weights of its own, one row further down), with an even one each row has pairs of its own.
;; `pairs` pairs are held at $s, a ring in which the oldest is replaced; behind them a row of zero points, then sums, which
;; are written only where no floats hold them.  $w: the packed node (pack_conv_i8.py).  advance: pairs that the next rows of outputs lie further down.
(func $@{name} (param $x i32) (param $w i32) (param $s i32) (param $y i32) (local $at i32) (local $top i32) (local $n i32)
;;@ for p in 0..pairs
  (local $p@{p} i32)
;;@ end
  (local.set $p0 (local.get $s))
;;@ if keeps
;;@ use fill kind=i16x8 to=@{outside_at}
;;@ end
  (local.set $p0 (i32.add (local.get $s) (i32.const @{outside_at})))
;;@ use fill kind=i8x16 to=@{sums_at}
  (local.set $top (i32.const @{-top}))
;;@ for p in 0..pairs
  (local.set $p@{p} (i32.add (local.get $s) (i32.const @{p * pair_bytes})))
  (call $@{interleave} (local.get $x) (local.get $top) (i32.add (local.get $s) (i32.const @{outside_at})) (local.get $p@{p}))
  (local.set $top (i32.add (local.get $top) (i32.const 2)))
;;@ end
  (block $done
    (loop $row
;;@ use sums table=0
;;@ if both
      (br_if $done (i32.ge_u (local.tee $at (i32.add (local.get $at) (i32.const 1))) (i32.const @{height})))
;;@ use sums table=1
;;@ end
      (br_if $done (i32.ge_u (local.tee $at (i32.add (local.get $at) (i32.const 1))) (i32.const @{height})))
;;@ for a in 0..advance
      (local.set $n (local.get $p0))
;;@ for p in 0..pairs - 1
      (local.set $p@{p} (local.get $p@{p + 1}))
;;@ end
      (local.set $p@{pairs - 1} (local.get $n))
;;@ if a >= advance - pairs
      (call $@{interleave} (local.get $x) (local.get $top) (i32.add (local.get $s) (i32.const @{outside_at}))
        (local.get $n))
;;@ end
      (local.set $top (i32.add (local.get $top) (i32.const 2)))
;;@ end
      (br $row)))
)
;;@ define fill
  (local.set $n (i32.add (local.get $s) (i32.const @{to})))
  (loop $fill
;;@ for i in 0..4
    (v128.store offset=@{16 * i} (local.get $p0) (@{kind}.splat (i32.const @{zero})))
;;@ end
    (br_if $fill (i32.ne (local.tee $p0 (i32.add (local.get $p0) (i32.const 64))) (local.get $n))))
;;@ end
;;@ define sums
      (call $@{sums}
;;@ for p in 0..pairs
        (local.get $p@{p})
;;@ end
        (i32.add (local.get $w) (i32.const @{weights_at + table * table_bytes})) (local.get $y)
        (i32.add (local.get $s) (i32.const @{sums_at})) (i32.const 0))
      (if (i32.load offset=80 (local.get $w)) (then
        (call $@{any} (i32.add (local.get $s) (i32.const @{sums_at})) (i32.add (local.get $w) (i32.const @{raw_at}))
          (local.get $w) (local.get $y) (i32.const @{width}))))
      (local.set $y (i32.add (local.get $y) (i32.const @{out_row})))
;;@ end
