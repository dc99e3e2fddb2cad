;; gaussian_symmetric: 2 e^(-x^2) - 1.
;;@ use gaussian
(local.set @{a} (@{fma} (local.get @{a}) @[2] @{into} @[-1]))
