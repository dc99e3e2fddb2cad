;; sigmoid: 1 / (1 + e^-x), x held within +-17: what comes out is at least 4e-8, so nothing behind it becomes denormal
;; (WebAssembly cannot flush denormals to zero).  NaN stays NaN.  Needs the locals $t and $n.
;; The mode fast (`into` is empty) takes e^-x as 2^n 2^f, n + f = -x / ln 2, |f| <= 1/2: one step instead of two to f, and
;; the polynomial (relative error 1.1e-7) in pairs, for what a vector waits for here is the chain of operations.
(local.set @{a} (f32x4.pmin (f32x4.pmax (local.get @{a}) @[-17]) @[17]))
;;@ if into
;;@ use exp_negative
;;@ else
(local.set $t (@{fma} (local.get @{a}) @[-1.442695041] @[12583039]))
(local.set $n (f32x4.sub @[12583039] (local.get $t)))
(local.set @{a} (@{fma} (local.get @{a}) @[-1.442695041] (local.get $n)))
(local.set $n (f32x4.mul (local.get @{a}) (local.get @{a})))
(local.set @{a} (f32x4.mul (i32x4.shl (local.get $t) (i32.const 23))
  (@{fma} (local.get $n)
    (@{fma} (local.get $n)
      (@{fma} (local.get @{a}) @[0.001321845256] @[0.009671804464])
      (@{fma} (local.get @{a}) @[0.05550894849] @[0.2402223637]))
    (@{fma} (local.get @{a}) @[0.693146854] @[1]))))
;;@ end
(local.set @{a} (f32x4.div @[1] (f32x4.add (local.get @{a}) @[1])))
