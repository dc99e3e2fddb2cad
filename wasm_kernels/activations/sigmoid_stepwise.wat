;; sigmoid_stepwise: FANN's straight lines beside 1 / (1 + e^-2x); 0 below the first point and 1 from the last on.
;;@ use stepwise low=-2.646652460098266602
(local.set @{a} (@{fma} (local.get @{a}) @[0.5] @{into} @[0.5]))
