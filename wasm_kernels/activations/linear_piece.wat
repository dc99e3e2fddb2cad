;; linear_piece: x within [0, 1].  NaN stays NaN.
(local.set @{a} (f32x4.pmin (f32x4.pmax (local.get @{a}) @[0]) @[1]))
