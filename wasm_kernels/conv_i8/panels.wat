;; One row's sums: `panels` panels of `width` vectors of outputs, then one of `last` vectors (0: none).
(func $@{name} (param $x i32) (param $w i32) (param $bias i32) (param $y i32) (param $pixels i32) (local $p i32)
;;@ if panels
  (local.set $p (i32.const @{panels}))
  (loop $panel
    (call $@{sums} (local.get $x) (local.get $w) (local.get $bias) (local.get $y) (local.get $pixels) (i32.const 0))
    (local.set $w (i32.add (local.get $w) (i32.const @{panel_bytes})))
    (local.set $bias (i32.add (local.get $bias) (i32.const @{16 * width})))
    (local.set $y (i32.add (local.get $y) (i32.const @{16 * width})))
    (br_if $panel (local.tee $p (i32.sub (local.get $p) (i32.const 1)))))
;;@ end
;;@ if last
  (call $@{sums_last} (local.get $x) (local.get $w) (local.get $bias) (local.get $y) (local.get $pixels) (i32.const 0))
;;@ end
)
