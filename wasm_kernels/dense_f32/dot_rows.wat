;; A dense layer of one output on many rows, one by one.
(func $@{name} (param $x i32) (param $rows i32) (param $w i32) (param $y i32)
  (loop $row
    (call $@{dot} (local.get $x) (i32.const @{k_main}) (i32.const @{k_whole}) (i32.const @{rest})
      (local.get $w) (local.get $y))
    (local.set $x (i32.add (local.get $x) (i32.const @{x_stride})))
    (local.set $y (i32.add (local.get $y) (i32.const @{y_stride})))
    (br_if $row (local.tee $rows (i32.sub (local.get $rows) (i32.const 1)))))
)
