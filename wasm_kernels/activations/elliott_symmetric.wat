;; elliott_symmetric: x / (1 + |x|), x held within +-1e30, where it is 1 already: infinity / infinity would be NaN.
(local.set @{a} (f32x4.pmin (f32x4.pmax (local.get @{a}) @[-1e30]) @[1e30]))
(local.set @{a} (f32x4.div (local.get @{a}) (f32x4.add (f32x4.abs (local.get @{a})) @[1])))
