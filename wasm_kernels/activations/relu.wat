;; relu: 0 where x < 0, else x.  NaN stays NaN, -0 stays -0 (pmax(x, 0) is x < 0 ? 0 : x).
(local.set @{a} (f32x4.pmax (local.get @{a}) @[0]))
