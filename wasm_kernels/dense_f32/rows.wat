;; One dense layer on many rows: its `panels` panels of 4 columns in tiles of `height` rows, its last, narrower panel of
;; `last` columns in tiles of `height_last` rows, and the rows that are left over one by one.
;; The narrow panel's last tile lies over the one before it where rows are left over: computed twice, to the same bits.
(func $@{name} (param $x i32) (param $rows i32) (param $w i32) (param $y i32) (local $done i32) (local $back i32)
  (if (i32.ge_u (local.get $rows) (i32.const @{tallest})) (then
;;@ if panels
    (local.set $done (i32.sub (local.get $rows) (i32.rem_u (local.get $rows) (i32.const @{height}))))
    (call $@{gemm} (local.get $x)
      (i32.add (local.get $x) (i32.mul (local.get $done) (i32.const @{x_stride}))) (i32.const @{x_stride})
      (i32.const @{k_main}) (i32.const @{4 * inputs}) (local.get $w) (i32.const @{panels})
      (local.get $y) (i32.const @{y_stride}))
;;@ end
;;@ if last
    (local.set $done (i32.sub (local.get $rows) (i32.rem_u (local.get $rows) (i32.const @{height_last}))))
    (call $@{gemm_last} (local.get $x)
      (i32.add (local.get $x) (i32.mul (local.get $done) (i32.const @{x_stride}))) (i32.const @{x_stride})
      (i32.const @{k_main}) (i32.const @{4 * inputs}) (i32.add (local.get $w) (i32.const @{64 * panels * (inputs + 1)}))
      (i32.const 1) (i32.add (local.get $y) (i32.const @{64 * panels})) (i32.const @{y_stride}))
    (if (i32.rem_u (local.get $rows) (i32.const @{height_last})) (then
      (local.set $back (i32.sub (local.get $rows) (i32.const @{height_last})))
      (call $@{gemm_last} (i32.add (local.get $x) (i32.mul (local.get $back) (i32.const @{x_stride})))
        (i32.add (local.get $x) (i32.mul (local.get $rows) (i32.const @{x_stride}))) (i32.const @{x_stride})
        (i32.const @{k_main}) (i32.const @{4 * inputs})
        (i32.add (local.get $w) (i32.const @{64 * panels * (inputs + 1)})) (i32.const 1)
        (i32.add (i32.add (local.get $y) (i32.mul (local.get $back) (i32.const @{y_stride})))
          (i32.const @{64 * panels})) (i32.const @{y_stride}))))
;;@ end
;;@ if panels
    (local.set $done (i32.sub (local.get $rows) (i32.rem_u (local.get $rows) (i32.const @{height}))))
;;@ else
    (local.set $done (local.get $rows))
;;@ end
  ))
  (local.set $x (i32.add (local.get $x) (i32.mul (local.get $done) (i32.const @{x_stride}))))
  (local.set $y (i32.add (local.get $y) (i32.mul (local.get $done) (i32.const @{y_stride}))))
  (local.set $rows (i32.sub (local.get $rows) (local.get $done)))
  (if (local.get $rows) (then
    (loop $left
      (call $@{row} (local.get $x) (local.get $w) (local.get $y))
      (local.set $x (i32.add (local.get $x) (i32.const @{x_stride})))
      (local.set $y (i32.add (local.get $y) (i32.const @{y_stride})))
      (br_if $left (local.tee $rows (i32.sub (local.get $rows) (i32.const 1)))))))
)
