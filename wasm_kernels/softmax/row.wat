;; softmax of one row, through a scratch of whole vectors: rows that lie end to end would be read behind their ends.
(func $@{name} (param $x i32) (param $y i32)
  (call $@{read} (local.get $x) (i32.const @{scratch}))
  (call $@{softmax} (i32.const @{scratch}) (i32.const @{scratch + 16 * vectors}))
  (call $@{write} (i32.const @{scratch}) (local.get $y))
)
