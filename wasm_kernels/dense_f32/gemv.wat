;; Dense layer, float32, one row:  y = act(bias + x @ weights).
;; Order of summation, here and in gemm.wat: the bias, then k = 0, 1, ... inputs - 1, each by one multiply-add.
;; inputs: values of x.  panel: vectors of 4 outputs in one panel.  panels: how many panels.
;; together: panels computed side by side, so that enough sums are under way to hide the latency of a multiply-add.
;; unroll: steps of k in the loop's body.  Cranelift sinks a block's arithmetic below all of its loads, which would
;; spill the sums.  So a branch that could leave follows each step, and one that never does (xp is not xe there) each
;; panel's part of a step: the sums must be ready there (exit-unroll).
;; Weights are packed: for each panel one row of bias, then one row for each k; a row is `panel` vectors.
(func $@{name} (param $x i32) (param $w i32) (param $y i32)
  (local $wp i32) (local $xp i32) (local $xe i32) (local $ye i32) (local $s v128)
;;@ for i in 0..panel * together
  (local $a@{i} v128) (local $b@{i} v128)
;;@ end
;;@ define group
;;@ for p in 0..count
;;@ for v in 0..panel
  (local.set $a@{p * panel + v} (v128.load offset=@{p * panel_bytes + 16 * v} (local.get $w)))
;;@ end
;;@ end
  (local.set $wp (i32.add (local.get $w) (i32.const @{16 * panel})))
  (local.set $xp (local.get $x))
  (block $out@{count} (loop $k@{count}
;;@ for u in 0..unroll
    (local.set $s (v128.load32_splat offset=@{4 * u} (local.get $xp)))
;;@ for p in 0..count
;;@ for v in 0..panel
    (local.set $b@{p * panel + v} (v128.load offset=@{p * panel_bytes + 16 * (u * panel + v)} (local.get $wp)))
;;@ end
;;@ for v in 0..panel
    (local.set $a@{p * panel + v}
      (@{fma} (local.get $b@{p * panel + v}) (local.get $s) @{into} (local.get $a@{p * panel + v})))
;;@ end
;;@ if p < count - 1
    (br_if $out@{count} (i32.eq (local.get $xp) (local.get $xe)))
;;@ end
;;@ end
;;@ if u < unroll - 1
    (br_if $out@{count} (i32.eq (i32.add (local.get $xp) (i32.const @{4 * u + 4})) (local.get $xe)))
;;@ end
;;@ end
    (local.set $wp (i32.add (local.get $wp) (i32.const @{16 * panel * unroll})))
    (local.set $xp (i32.add (local.get $xp) (i32.const @{4 * unroll})))
    (br_if $k@{count} (i32.lt_u (local.get $xp) (local.get $xe)))))
;;@ for i in 0..count * panel
;;@ use @{activation} a=$a@{i}
  (v128.store offset=@{16 * i} (local.get $y) (local.get $a@{i}))
;;@ end
  (local.set $w (i32.add (local.get $w) (i32.const @{count * panel_bytes})))
  (local.set $y (i32.add (local.get $y) (i32.const @{16 * count * panel})))
;;@ end
  (local.set $xe (i32.add (local.get $x) (i32.const @{4 * inputs})))
;;@ if panels >= together
  (local.set $ye (i32.add (local.get $y) (i32.const @{16 * panel * together * (panels // together)})))
  (loop $groups
;;@ use group count=@{together}
    (br_if $groups (i32.lt_u (local.get $y) (local.get $ye))))
;;@ end
;;@ if panels % together
;;@ use group count=@{panels % together}
;;@ end
)
