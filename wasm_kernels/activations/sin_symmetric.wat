;; sin_symmetric: sin x.  An odd polynomial of degree 9, minimax: 4e-9.  NaN stays NaN.
;;@ use half_turns
(local.set @{a} (v128.xor (local.get @{a}) (local.get $t)))
(local.set $t (f32x4.mul (local.get @{a}) (local.get @{a})))
(local.set $n (@{fma} (local.get $t) @[2.590167241e-6] @{into} @[-1.980073866e-4]))
(local.set $n (@{fma} (local.get $t) (local.get $n) @{into} @[0.008332896978]))
(local.set $n (@{fma} (local.get $t) (local.get $n) @{into} @[-0.1666664779]))
(local.set $n (@{fma} (local.get $t) (local.get $n) @{into} @[1]))
(local.set @{a} (f32x4.mul (local.get @{a}) (local.get $n)))
