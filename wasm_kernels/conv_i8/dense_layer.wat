;; A whole dense layer in 8 bits, of one row: its input at $s, sums behind them at `sums_at`; $w: the packed node
;; (pack_conv_i8.py), whose word FORM says what weights it holds: 0 all of them, for the halves of the input (split.wat,
;; dense.wat); 1, 2 kept ones, for groups of that many vectors of bytes (dense_held.wat), with what they lack behind them.
;; Whether bit 7 of what they are multiplied with is a sign, the machine is asked: 1 * 128, or -128, eight times.
;;@ define held
    (if (i32.eq (local.get $form) (i32.const @{group})) (then
      (call $@{f} (local.get $s) (i32.add (local.get $w) (i32.const @{weights_at})) (local.get $bias)
        (i32.add (local.get $s) (i32.const @{sums_at})) (i32.const 0))))
;;@ end
(func $@{name} (param $x i32) (param $w i32) (param $s i32) (param $y i32) (local $form i32) (local $turn i32)
  (local $bias i32)
  (local.set $form (i32.load offset=@{form} (local.get $w)))
  (if (i32.eqz (local.get $form)) (then
    (call $@{split} (local.get $x) (local.get $s))
    (call $@{sums} (local.get $s) (i32.add (local.get $w) (i32.const @{weights_at}))
      (i32.add (local.get $w) (i32.const @{bias_at})) (i32.add (local.get $s) (i32.const @{sums_at})) (i32.const 0)))
  (else
    (local.set $turn (i32.lt_s (i16x8.extract_lane_s 0 (i16x8.relaxed_dot_i8x16_i7x16_s
      (v128.const i32x4 0x01010101 0x01010101 0x01010101 0x01010101)
      (v128.const i32x4 0x80808080 0x80808080 0x80808080 0x80808080))) (i32.const 0)))
    (local.set $bias (i32.add (local.get $w)
      (select (i32.const @{signed_bias_at}) (i32.const @{bias_at}) (local.get $turn))))
    (call $@{copy} (local.get $x) (i32.const @{inputs}) (local.get $s)
      (select (i32.const 0) (i32.const 128) (local.get $turn)))
;;@ use held group=1 f=@{held1}
;;@ use held group=2 f=@{held2}
    (call $@{rest} (local.get $s) (i32.add (local.get $w) (i32.const @{rest_at})) (i32.add (local.get $w)
      (i32.add (i32.const @{rest_at}) (i32.load offset=@{form + 4} (local.get $w))))
      (i32.add (local.get $s) (i32.const @{sums_at})) (i32.shl (local.get $turn) (i32.const 7)))))
  (if (i32.load offset=80 (local.get $w)) (then
    (call $@{any} (i32.add (local.get $s) (i32.const @{sums_at})) (i32.add (local.get $w) (i32.const @{raw_at}))
      (local.get $w) (local.get $y) (i32.const 1)))
  (else
    (call $@{quick} (i32.add (local.get $s) (i32.const @{sums_at})) (i32.add (local.get $w) (i32.const @{factors_at}))
      (local.get $w) (local.get $y) (i32.const 1) (i32.const 0))))
)
