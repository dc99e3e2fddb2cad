;; A function called at each of `count` places of an axis: the pointers move by as many bytes as a place is wide.
(func $@{name} (param $x i32)
;;@ if pointers == 3
  (param $z i32)
;;@ end
  (param $y i32) (local $n i32)
  (local.set $n (i32.const @{count}))
  (loop $next
    (call $@{each} (local.get $x)
;;@ if pointers == 3
      (local.get $z)
;;@ end
      (local.get $y))
    (local.set $x (i32.add (local.get $x) (i32.const @{x_step})))
;;@ if pointers == 3
    (local.set $z (i32.add (local.get $z) (i32.const @{z_step})))
;;@ end
    (local.set $y (i32.add (local.get $y) (i32.const @{y_step})))
    (br_if $next (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
)
