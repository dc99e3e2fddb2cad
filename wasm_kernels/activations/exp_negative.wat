;; e^-z for |z| <= 86, z in @{a}: a part of other activations.  NaN stays NaN.
;; n = round(-z / ln 2) by adding 1.5 * 2^23 + 127, which leaves n + 127 in the low bits: shifted left by 23 it is 2^n.
;; s = z + n ln 2 with ln 2 in two parts (the first has few bits, so n times it is exact), |s| <= ln 2 / 2.
;; e^-s by a polynomial of degree 5, weighted least squares on Chebyshev nodes: relative error 1.1e-7.
(local.set $t (@{fma} (local.get @{a}) @[-1.442695041] @{into} @[12583039]))
(local.set $n (f32x4.sub (local.get $t) @[12583039]))
(local.set @{a} (@{fma} (local.get $n) @[0.693359375] @{into} (local.get @{a})))
(local.set @{a} (@{fma} (local.get $n) @[-2.121944400e-4] @{into} (local.get @{a})))
(local.set $n (@{fma} (local.get @{a}) @[-0.008312524296] @{into} @[0.041890162975]))
(local.set $n (@{fma} (local.get @{a}) (local.get $n) @{into} @[-0.166671141982]))
(local.set $n (@{fma} (local.get @{a}) (local.get $n) @{into} @[0.499992311001]))
(local.set $n (@{fma} (local.get @{a}) (local.get $n) @{into} @[-1]))
(local.set $n (@{fma} (local.get @{a}) (local.get $n) @{into} @[1]))
(local.set @{a} (f32x4.mul (local.get $n) (i32x4.shl (local.get $t) (i32.const 23))))
