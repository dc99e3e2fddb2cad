;; `values` float32 of x and of z, added or multiplied (`op`), through an activation, to y, which may be where x or z is.
;; x_one, z_one: 1 if that is one value for all.  rest: values of a last, broken vector that leaves what lies behind it as it
;; was, for another stretch may lie there, not yet read; it comes first.
;; The branch between two vectors keeps their arithmetic apart (dense_f32/gemv.wat tells why).
;;@ define one
    (local.set $a (@{op}
;;@ if x_one
      (local.get $one)
;;@ else
      (v128.load offset=@{16 * u} (local.get $x))
;;@ end
;;@ if z_one
      (local.get $one)
;;@ else
      (v128.load offset=@{16 * u} (local.get $z))
;;@ end
    ))
;;@ if activation
;;@ use @{activation} a=$a
;;@ end
;;@ end
(func $@{name} (param $x i32) (param $z i32) (param $y i32) (local $end i32) (local $a v128) (local $one v128)
  (local $t v128) (local $n v128)
;;@ if x_one
  (local.set $one (v128.load32_splat (local.get $x)))
;;@ end
;;@ if z_one
  (local.set $one (v128.load32_splat (local.get $z)))
;;@ end
;;@ if rest
;;@ use one u=@{vectors}
  (v128.store offset=@{16 * vectors} (local.get $y) (v128.bitselect (local.get $a)
    (v128.load offset=@{16 * vectors} (local.get $y))
    (v128.const i32x4 -1 @{0 - (rest > 1)} @{0 - (rest > 2)} 0)))
;;@ end
;;@ if vectors
  (local.set $end (i32.add (local.get $y) (i32.const @{16 * vectors})))
  (block $out (loop $next
;;@ for u in 0..unroll
;;@ use one
    (v128.store offset=@{16 * u} (local.get $y) (local.get $a))
;;@ if u < unroll - 1
    (br_if $out (i32.eq (i32.add (local.get $y) (i32.const @{16 * u + 16})) (local.get $end)))
;;@ end
;;@ end
    (local.set $x (i32.add (local.get $x) (i32.const @{16 * unroll})))
    (local.set $z (i32.add (local.get $z) (i32.const @{16 * unroll})))
    (br_if $next (i32.lt_u (local.tee $y (i32.add (local.get $y) (i32.const @{16 * unroll}))) (local.get $end)))))
;;@ end
)
