;; x times a constant.
(local.set @{a} (f32x4.mul (local.get @{a}) (v128.const f32x4 @{slope} @{slope} @{slope} @{slope})))
