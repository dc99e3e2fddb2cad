;; elliott: x / 2 / (1 + |x|) + 0.5.
;;@ use elliott_symmetric
(local.set @{a} (@{fma} (local.get @{a}) @[0.5] @{into} @[0.5]))
