;; A whole small dense layer on one row, without a loop: its columns fit one panel, its sums stay in registers, and the
;; activation (where it is one of single values) follows them there. The same operations in the same order as gemv.wat:
;; `k_main` steps in rounds of `unroll`, the rest in rounds of `tail`.
(func $@{name} (param $x i32) (param $w i32) (param $y i32) (local $s v128) (local $t v128) (local $n v128)
;;@ for c in 0..columns
  (local $a@{c} v128) (local $b@{c} v128) (local $y@{c} v128)
;;@ end
  (block $out
;;@ for c in 0..columns
    (local.set $y@{c} (v128.load offset=@{16 * c} (local.get $w)))
;;@ if fresh
    (local.set $a@{c} @[0])
;;@ else
    (local.set $a@{c} (local.get $y@{c}))
;;@ end
;;@ end
;;@ for k in 0..inputs
    (local.set $s (v128.load32_splat offset=@{4 * k} (local.get $x)))
;;@ for c in 0..columns
    (local.set $b@{c} (v128.load offset=@{16 * ((k + 1) * columns + c)} (local.get $w)))
;;@ end
;;@ for c in 0..columns
    (local.set $a@{c} (@{fma} (local.get $b@{c}) (local.get $s) @{into} (local.get $a@{c})))
;;@ end
;;@ if fresh and (k + 1 == inputs or (k < k_main and (k + 1) % unroll == 0) or (k >= k_main and (k + 1 - k_main) % tail == 0))
;;@ for c in 0..columns
    (local.set $y@{c} (f32x4.add (local.get $y@{c}) (local.get $a@{c})))
    (local.set $a@{c} @[0])
;;@ end
;;@ end
;;@ if k % 4 == 3
    (br_if $out (i32.eqz (local.get $w)))
;;@ end
;;@ end
  )
;;@ for c in 0..columns
;;@ if fresh
  (local.set $a@{c} (local.get $y@{c}))
;;@ end
;;@ if fused
;;@ use @{activation} a=$a@{c}
;;@ end
  (v128.store offset=@{16 * c} (local.get $y) (local.get $a@{c}))
;;@ end
)
