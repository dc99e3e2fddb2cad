;; sin: sin(x) / 2 + 0.5.
;;@ use sin_symmetric
(local.set @{a} (@{fma} (local.get @{a}) @[0.5] @{into} @[0.5]))
