;; One dense layer's sums on one row: `panels` panels of `width` columns, then one of `last` columns (0: none).
;; steps: steps of k, 4 bytes of x each.  A column is 16 bytes of bias and `bytes` bytes of weights a step.
(func $@{name} (param $x i32) (param $w i32) (param $y i32)
;;@ if panels
  (call $@{gemv} (local.get $x) (i32.const @{4 * steps}) (local.get $w) (i32.const @{panels}) (local.get $y))
;;@ end
;;@ if last
  (call $@{gemv_last} (local.get $x) (i32.const @{4 * steps})
    (i32.add (local.get $w) (i32.const @{panels * width * (16 + bytes * steps)}))
    (i32.const 1) (i32.add (local.get $y) (i32.const @{16 * panels * width})))
;;@ end
)
