;; Store a vector's first `count` values (0: all 4) at `address` + `at`: what lies behind them may be in use.
;;@ if count == 0
      (v128.store offset=@{at} (local.get @{address}) (local.get @{value}))
;;@ else
;;@ if count >= 2
      (v128.store64_lane offset=@{at} 0 (local.get @{address}) (local.get @{value}))
;;@ end
;;@ if count == 1
      (v128.store32_lane offset=@{at} 0 (local.get @{address}) (local.get @{value}))
;;@ end
;;@ if count == 3
      (v128.store32_lane offset=@{at + 8} 2 (local.get @{address}) (local.get @{value}))
;;@ end
;;@ end
