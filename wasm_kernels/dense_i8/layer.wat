;; One dense layer's sums: `panels` panels of `width` columns, then one of `last` columns (0: none).
;; steps: steps of k, 4 bytes of x each.  A column is 16 bytes of bias and `bytes` bytes of weights a step.
(func $@{name} (param $x i32) (param $rows i32) (param $w i32) (param $ones i32) (param $y i32)
;;@ if panels
  (call $@{sums} (local.get $x) (local.get $rows) (i32.const @{x_stride}) (i32.const @{4 * steps}) (local.get $w)
    (local.get $ones) (i32.const @{panels}) (local.get $y) (i32.const @{y_stride}) (i32.const 0))
;;@ end
;;@ if last
  (call $@{sums_last} (local.get $x) (local.get $rows) (i32.const @{x_stride}) (i32.const @{4 * steps})
    (i32.add (local.get $w) (i32.const @{panels * width * (16 + bytes * steps)}))
    (local.get $ones) (i32.const 1) (i32.add (local.get $y) (i32.const @{16 * panels * width})) (i32.const @{y_stride})
    (i32.const 0))
;;@ end
)
