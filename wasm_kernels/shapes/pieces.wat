;; `count` pieces of `size` bytes to $y, one behind the other: piece i from $x + the i-th 32-bit number at `table`.
(func $@{name} (param $x i32) (param $y i32) (local $t i32) (local $end i32)
  (local.set $t (i32.const @{table}))
  (local.set $end (i32.const @{table + 4 * count}))
  (loop $next
    (call $@{move} (i32.add (local.get $x) (i32.load (local.get $t))) (local.get $y))
    (local.set $y (i32.add (local.get $y) (i32.const @{size})))
    (br_if $next (i32.lt_u (local.tee $t (i32.add (local.get $t) (i32.const 4))) (local.get $end))))
)
