;; sigmoid: 1 / (1 + e^-x), x held within +-17: what comes out is at least 4e-8, so nothing behind it becomes denormal
;; (WebAssembly cannot flush denormals to zero).  NaN stays NaN.  Needs the locals $t and $n.
(local.set @{a} (f32x4.pmin (f32x4.pmax (local.get @{a}) @[-17]) @[17]))
;;@ use exp_negative
(local.set @{a} (f32x4.div @[1] (f32x4.add (local.get @{a}) @[1])))
