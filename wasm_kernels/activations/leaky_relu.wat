;; leaky_relu: 0.01 x where x < 0 (LEAKY_SLOPE), else x.  NaN stays NaN.
(local.set @{a} (f32x4.pmax (local.get @{a}) (f32x4.mul (local.get @{a}) @[0.01])))
