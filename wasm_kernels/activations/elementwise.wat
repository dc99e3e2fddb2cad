;; One activation over all values from $p to $end: rows lie end to end, so their padding goes along (and is read by
;; nobody).  A pass of its own is faster than an activation beside the sums, which need the registers.
;; `unroll` vectors a round, for the check of the epoch in the loop's head costs as much as three.
(func $@{name} (param $p i32) (param $end i32) (local $a v128) (local $t v128) (local $n v128)
  (block $out (loop $next
;;@ for u in 0..unroll
    (local.set $a (v128.load offset=@{16 * u} (local.get $p)))
;;@ use @{activation} a=$a
    (v128.store offset=@{16 * u} (local.get $p) (local.get $a))
;;@ if u < unroll - 1
    (br_if $out (i32.eq (i32.add (local.get $p) (i32.const @{16 * u + 16})) (local.get $end)))
;;@ end
;;@ end
    (local.set $p (i32.add (local.get $p) (i32.const @{16 * unroll})))
    (br_if $next (i32.lt_u (local.get $p) (local.get $end)))))
)
