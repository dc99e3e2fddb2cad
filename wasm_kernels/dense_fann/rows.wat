;; `row` on $rows rows.
(func $@{name} (param $x i32) (param $rows i32) (param $y i32)
  (loop $each
    (call $@{row} (local.get $x) (local.get $y))
    (local.set $x (i32.add (local.get $x) (i32.const @{x_stride})))
    (local.set $y (i32.add (local.get $y) (i32.const @{y_stride})))
    (br_if $each (local.tee $rows (i32.sub (local.get $rows) (i32.const 1)))))
)
