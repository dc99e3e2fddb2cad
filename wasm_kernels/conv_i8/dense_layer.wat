;; A whole dense layer in 8 bits, of one row: its input in halves at $s, sums behind them at `sums_at` (split.wat,
;; dense.wat); $w: the packed node (pack_conv_i8.py).
(func $@{name} (param $x i32) (param $w i32) (param $s i32) (param $y i32)
  (call $@{split} (local.get $x) (local.get $s))
  (call $@{sums} (local.get $s) (i32.add (local.get $w) (i32.const @{weights_at}))
    (i32.add (local.get $w) (i32.const @{bias_at})) (i32.add (local.get $s) (i32.const @{sums_at})) (i32.const 0))
  (if (i32.load offset=80 (local.get $w)) (then
    (call $@{any} (i32.add (local.get $s) (i32.const @{sums_at})) (i32.add (local.get $w) (i32.const @{raw_at}))
      (local.get $w) (local.get $y) (i32.const 1)))
  (else
    (call $@{quick} (i32.add (local.get $s) (i32.const @{sums_at})) (i32.add (local.get $w) (i32.const @{factors_at}))
      (local.get $w) (local.get $y) (i32.const 1) (i32.const 0))))
)
