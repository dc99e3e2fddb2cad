;; tanh: x P(x^2) / Q(x^2) with x held within +-9.02 and the result within +-1.  Relative error 4e-7, so small values
;; keep their digits.  P and Q of degree 4, weighted least squares on Chebyshev nodes.  NaN stays NaN.
(local.set @{a} (f32x4.pmin (f32x4.pmax (local.get @{a}) @[-9.02]) @[9.02]))
(local.set $t (f32x4.mul (local.get @{a}) (local.get @{a})))
(local.set $n (@{fma} (local.get $t) @[1.3384360287e-8] @{into} @[2.0635878172e-5]))
(local.set $n (@{fma} (local.get $t) (local.get $n) @{into} @[0.0034974610899]))
(local.set $n (@{fma} (local.get $t) (local.get $n) @{into} @[0.1338268965483]))
(local.set $n (@{fma} (local.get $t) (local.get $n) @{into} @[1]))
(local.set @{a} (f32x4.mul (local.get @{a}) (local.get $n)))
(local.set $n (@{fma} (local.get $t) @[7.7902791418e-7] @{into} @[0.00032885230030]))
(local.set $n (@{fma} (local.get $t) (local.get $n) @{into} @[0.0258843749762]))
(local.set $n (@{fma} (local.get $t) (local.get $n) @{into} @[0.4671601057053]))
(local.set $n (@{fma} (local.get $t) (local.get $n) @{into} @[1]))
(local.set @{a} (f32x4.pmin (f32x4.pmax (f32x4.div (local.get @{a}) (local.get $n)) @[-1]) @[1]))
