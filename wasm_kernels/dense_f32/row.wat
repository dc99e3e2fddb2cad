;; One dense layer on one row: `panels` panels of `width` columns, then one of `last` columns (0: none).
(func $@{name} (param $x i32) (param $w i32) (param $y i32)
;;@ if panels
  (call $@{gemv} (local.get $x) (i32.const @{4 * inputs}) (local.get $w) (i32.const @{panels}) (local.get $y))
;;@ end
;;@ if last
  (call $@{gemv_last} (local.get $x) (i32.const @{4 * inputs})
    (i32.add (local.get $w) (i32.const @{16 * panels * width * (inputs + 1)}))
    (i32.const 1) (i32.add (local.get $y) (i32.const @{16 * panels * width})))
;;@ end
)
