;; cos_symmetric: cos x.  An even polynomial of degree 8, minimax: 6e-8.  NaN stays NaN.
;;@ use half_turns
(local.set @{a} (f32x4.mul (local.get @{a}) (local.get @{a})))
(local.set $n (@{fma} (local.get @{a}) @[2.319126907e-5] @{into} @[-0.001385579817]))
(local.set $n (@{fma} (local.get @{a}) (local.get $n) @{into} @[0.04166397452]))
(local.set $n (@{fma} (local.get @{a}) (local.get $n) @{into} @[-0.4999993145]))
(local.set $n (@{fma} (local.get @{a}) (local.get $n) @{into} @[1]))
(local.set @{a} (v128.xor (local.get $n) (local.get $t)))
