;; Every NaN becomes the one NaN 0x7fc00000: WebAssembly leaves a NaN's sign and payload to the machine, and the
;; deterministic mode promises bits.
(local.set @{a} (v128.bitselect (local.get @{a}) @[nan] (f32x4.eq (local.get @{a}) (local.get @{a}))))
