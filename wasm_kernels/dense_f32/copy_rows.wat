;; `size` bytes of each of $rows rows from $x to $y, not a byte more: what lies behind them may be in use.
(func $@{name} (param $x i32) (param $rows i32) (param $y i32)
  (loop $row
    (memory.copy (local.get $y) (local.get $x) (i32.const @{size}))
    (local.set $x (i32.add (local.get $x) (i32.const @{x_stride})))
    (local.set $y (i32.add (local.get $y) (i32.const @{y_stride})))
    (br_if $row (local.tee $rows (i32.sub (local.get $rows) (i32.const 1)))))
)
