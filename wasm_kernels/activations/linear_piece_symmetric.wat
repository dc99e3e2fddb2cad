;; linear_piece_symmetric: x within [-1, 1].  NaN stays NaN.
(local.set @{a} (f32x4.pmin (f32x4.pmax (local.get @{a}) @[-1]) @[1]))
