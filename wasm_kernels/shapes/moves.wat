;; `count` times `size` bytes from $x to $y, x_step and y_step bytes apart, not a byte more: what lies behind may be in use.
;; What x and y are is apart.  The last 16 bytes of a longer stretch overlap those before them.
;; unroll: moves in the body of the loop.
;;@ define small
;;@ if size % 16 // 8
    (i64.store offset=@{yo} (local.get $y) (i64.load offset=@{xo} (local.get $x)))
;;@ end
;;@ if size % 8 // 4
    (i32.store offset=@{yo + size // 8 * 8} (local.get $y) (i32.load offset=@{xo + size // 8 * 8} (local.get $x)))
;;@ end
;;@ if size % 4 // 2
    (i32.store16 offset=@{yo + size // 4 * 4} (local.get $y) (i32.load16_u offset=@{xo + size // 4 * 4} (local.get $x)))
;;@ end
;;@ if size % 2
    (i32.store8 offset=@{yo + size - 1} (local.get $y) (i32.load8_u offset=@{xo + size - 1} (local.get $x)))
;;@ end
;;@ end
;;@ define move
;;@ if size < 16
;;@ use small
;;@ else
;;@ if size >= 128
    (local.set $p (local.get $x))
    (local.set $q (local.get $y))
    (local.set $end (i32.add (local.get $x) (i32.const @{size // 64 * 64})))
    (loop $long
;;@ for i in 0..4
      (v128.store offset=@{yo + 16 * i} (local.get $q) (v128.load offset=@{xo + 16 * i} (local.get $p)))
;;@ end
      (local.set $q (i32.add (local.get $q) (i32.const 64)))
      (br_if $long (i32.lt_u (local.tee $p (i32.add (local.get $p) (i32.const 64))) (local.get $end))))
;;@ end
;;@ for i in (size >= 128) * (size // 64 * 4)..size // 16
    (v128.store offset=@{yo + 16 * i} (local.get $y) (v128.load offset=@{xo + 16 * i} (local.get $x)))
;;@ end
;;@ if size % 16
    (v128.store offset=@{yo + size - 16} (local.get $y) (v128.load offset=@{xo + size - 16} (local.get $x)))
;;@ end
;;@ end
;;@ end
(func $@{name} (param $x i32) (param $y i32) (local $n i32) (local $p i32) (local $q i32) (local $end i32)
;;@ if count >= unroll and count > 1
  (local.set $n (i32.const @{count // unroll}))
  (loop $next
;;@ for u in 0..unroll
;;@ use move xo=@{u * x_step} yo=@{u * y_step}
;;@ end
    (local.set $x (i32.add (local.get $x) (i32.const @{unroll * x_step})))
    (local.set $y (i32.add (local.get $y) (i32.const @{unroll * y_step})))
    (br_if $next (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
;;@ for u in 0..count % unroll
;;@ use move xo=@{u * x_step} yo=@{u * y_step}
;;@ end
;;@ else
;;@ for u in 0..count
;;@ use move xo=@{u * x_step} yo=@{u * y_step}
;;@ end
;;@ end
)
