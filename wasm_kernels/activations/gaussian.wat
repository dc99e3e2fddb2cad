;; gaussian: e^(-x^2), x^2 held below 40: what comes out is at least 4e-18, so nothing behind it becomes denormal.
(local.set @{a} (f32x4.pmin (f32x4.mul (local.get @{a}) (local.get @{a})) @[40]))
;;@ use exp_negative
