;; A part of sin and cos: x -> x - n pi within +-pi/2 in @{a}, n = round(x / pi) in the low bits of $t, its sign in $t.
;; x is held within +-8192 (SINE_RANGE).  pi in three parts; the first two have so few bits that n times them is exact.
(local.set @{a} (f32x4.pmin (f32x4.pmax (local.get @{a}) @[-8192]) @[8192]))
(local.set $t (@{fma} (local.get @{a}) @[0.3183098862] @{into} @[12582912]))
(local.set $n (f32x4.sub (local.get $t) @[12582912]))
(local.set @{a} (@{fma} (local.get $n) @[-3.140625] @{into} (local.get @{a})))
(local.set @{a} (@{fma} (local.get $n) @[-9.67502593994140625e-4] @{into} (local.get @{a})))
(local.set @{a} (@{fma} (local.get $n) @[-1.509957990978e-7] @{into} (local.get @{a})))
(local.set $t (i32x4.shl (local.get $t) (i32.const 31)))
