;; threshold_symmetric: -1 where x < 0, else 1.  NaN stays NaN.
(local.set $t (v128.bitselect @[-1] @[1] (f32x4.lt (local.get @{a}) @[0])))
(local.set @{a} (v128.bitselect (local.get $t) (local.get @{a}) (f32x4.eq (local.get @{a}) (local.get @{a}))))
