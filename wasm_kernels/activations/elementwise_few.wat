;; One activation over `vectors` vectors from $p, without a loop: no epoch to check and no constants kept on the stack.
(func $@{name} (param $p i32) (local $a v128) (local $t v128) (local $n v128)
;;@ for u in 0..vectors
  (local.set $a (v128.load offset=@{16 * u} (local.get $p)))
;;@ use @{activation} a=$a
  (v128.store offset=@{16 * u} (local.get $p) (local.get $a))
;;@ end
)
