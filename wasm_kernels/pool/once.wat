;; A window of `rows` x `cols` places, all of it inside.
(func $@{name} (param $x i32) (param $y i32)
  (call $@{any} (local.get $x) (i32.const @{rows}) (i32.const @{cols}) (local.get $y))
)
