;; A convolution of a whole image, `rows` output rows at a time: what they read goes, with zeros around it, into scratch
;; that stays in the cache; then the sums of their pixels, by the functions in `calls`.
(func $@{name} (param $x i32) (param $w i32) (param $y i32) (local $row i32) (local $count i32) (local $pixels i32)
;;@ if padded
  (loop $next
    (local.set $count (select (i32.const @{rows}) (i32.sub (i32.const @{height}) (local.get $row))
      (i32.lt_u (i32.add (local.get $row) (i32.const @{rows})) (i32.const @{height}))))
    (call $@{pad} (local.get $x)
      (i32.sub (i32.mul (local.get $row) (i32.const @{stride})) (i32.const @{top}))
      (i32.add (i32.mul (i32.sub (local.get $count) (i32.const 1)) (i32.const @{stride})) (i32.const @{spread})))
    (local.set $pixels (i32.mul (local.get $count) (i32.const @{width})))
    @{calls}
    (local.set $y (i32.add (local.get $y) (i32.mul (local.get $count) (i32.const @{y_row}))))
    (br_if $next (i32.lt_u (local.tee $row (i32.add (local.get $row) (local.get $count))) (i32.const @{height}))))
;;@ else
  (local.set $pixels (i32.const @{height * width}))
  @{calls}
;;@ end
)
