;; A pass over `size` bytes of each of $rows rows, `stride` bytes apart: for tensors that lie inside wider rows.
(func $@{name} (param $p i32) (param $rows i32)
  (loop $row
    (call $@{each} (local.get $p) (i32.add (local.get $p) (i32.const @{size})))
    (local.set $p (i32.add (local.get $p) (i32.const @{stride})))
    (br_if $row (local.tee $rows (i32.sub (local.get $rows) (i32.const 1)))))
)
