;; x, below 0 slope * x.  NaN stays NaN.
(local.set @{a} (v128.bitselect (f32x4.mul (local.get @{a}) (v128.const f32x4 @{slope} @{slope} @{slope} @{slope}))
  (local.get @{a}) (f32x4.lt (local.get @{a}) @[0])))
