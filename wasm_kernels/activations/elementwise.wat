;; One activation over all values from $p to $end: rows lie end to end, so their padding goes along (and is read by
;; nobody).  A pass of its own is faster than an activation beside the sums, which need the registers; one vector at a
;; time is as fast as two or four (measured), for the processor overlaps the rounds by itself.
(func $@{name} (param $p i32) (param $end i32) (local $a v128) (local $t v128) (local $n v128)
  (loop $next
    (local.set $a (v128.load (local.get $p)))
;;@ use @{activation} a=$a
    (v128.store (local.get $p) (local.get $a))
    (local.set $p (i32.add (local.get $p) (i32.const 16)))
    (br_if $next (i32.lt_u (local.get $p) (local.get $end))))
)
