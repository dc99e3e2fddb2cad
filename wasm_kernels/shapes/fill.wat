;; `vectors` times the 32 bits `bits`, four of them a vector, from $y on.
(func $@{name} (param $x i32) (param $y i32) (local $end i32)
  (local.set $end (i32.add (local.get $y) (i32.const @{16 * vectors})))
  (loop $next
    (v128.store (local.get $y) (v128.const i32x4 @{bits} @{bits} @{bits} @{bits}))
    (br_if $next (i32.lt_u (local.tee $y (i32.add (local.get $y) (i32.const 16))) (local.get $end))))
)
