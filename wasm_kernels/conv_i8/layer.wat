;; A whole convolution in 8 bits: a few rows of outputs at a time, so that what it needs beside its input and its output
;; is small and stays in the first cache: widened rows of the input at $s, sums behind them at `sums_at`.
;; $w: the packed node: the record at 0, then at factors_at, bias_at, raw_at, weights_at what pack_conv_i8.py tells.
;; rows: of outputs at a time; top: of the padding; stride, spread: rows of the input between two rows of outputs, and
;; under a kernel; row_bytes: of a widened row; y_row: bytes of a row of sums; out_row: of a row of outputs.
(func $@{name} (param $x i32) (param $w i32) (param $s i32) (param $y i32)
  (local $at i32) (local $n i32) (local $r i32) (local $xp i32) (local $yp i32)
  (loop $chunk
    (local.set $n (i32.sub (i32.const @{height}) (local.get $at)))
    (local.set $n (select (local.get $n) (i32.const @{rows}) (i32.lt_u (local.get $n) (i32.const @{rows}))))
    (call $@{widen} (local.get $x)
      (i32.sub (i32.mul (local.get $at) (i32.const @{stride})) (i32.const @{top}))
      (i32.add (i32.mul (local.get $n) (i32.const @{stride})) (i32.const @{spread - stride}))
      (local.get $s))
    (local.set $r (local.get $n))
    (local.set $xp (local.get $s))
    (local.set $yp (i32.add (local.get $s) (i32.const @{sums_at})))
    (loop $row
      (call $@{sums} (local.get $xp) (i32.add (local.get $w) (i32.const @{weights_at}))
        (i32.add (local.get $w) (i32.const @{bias_at})) (local.get $yp) (i32.const @{width}))
      (local.set $xp (i32.add (local.get $xp) (i32.const @{stride * row_bytes})))
      (local.set $yp (i32.add (local.get $yp) (i32.const @{y_row})))
      (br_if $row (local.tee $r (i32.sub (local.get $r) (i32.const 1)))))
    (if (i32.load offset=80 (local.get $w)) (then
      (call $@{any} (i32.add (local.get $s) (i32.const @{sums_at})) (i32.add (local.get $w) (i32.const @{raw_at}))
        (local.get $w) (local.get $y) (i32.mul (local.get $n) (i32.const @{width}))))
    (else
      (call $@{quick} (i32.add (local.get $s) (i32.const @{sums_at})) (i32.add (local.get $w) (i32.const @{factors_at}))
        (local.get $w) (local.get $y) (i32.mul (local.get $n) (i32.const @{width})) (i32.const 0))))
    (local.set $y (i32.add (local.get $y) (i32.mul (local.get $n) (i32.const @{out_row}))))
    (br_if $chunk (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const @{rows}))) (i32.const @{height}))))
)
