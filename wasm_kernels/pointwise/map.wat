;; `vectors` vectors of x, each through an activation, to y; x and y may be the same.
;; The branch between two vectors keeps their arithmetic apart (dense_f32/gemv.wat tells why).
(func $@{name} (param $x i32) (param $y i32) (local $end i32) (local $a v128) (local $t v128) (local $n v128)
  (local.set $end (i32.add (local.get $x) (i32.const @{16 * vectors})))
  (block $out (loop $next
;;@ for u in 0..unroll
    (local.set $a (v128.load offset=@{16 * u} (local.get $x)))
;;@ if activation
;;@ use @{activation} a=$a
;;@ end
    (v128.store offset=@{16 * u} (local.get $y) (local.get $a))
;;@ if u < unroll - 1
    (br_if $out (i32.eq (i32.add (local.get $x) (i32.const @{16 * u + 16})) (local.get $end)))
;;@ end
;;@ end
    (local.set $y (i32.add (local.get $y) (i32.const @{16 * unroll})))
    (br_if $next (i32.lt_u (local.tee $x (i32.add (local.get $x) (i32.const @{16 * unroll}))) (local.get $end)))))
)
