;; relu6: x within [0, 6].  NaN stays NaN, -0 stays -0.
(local.set @{a} (f32x4.pmin (f32x4.pmax (local.get @{a}) @[0]) @[6]))
