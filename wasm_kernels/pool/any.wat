;; $rows rows of $cols places of a window, for all channels of one place: sums or maxima (block.wat), then what becomes of them.
;; blocks: of `width` vectors; last: vectors of one more.  then: the function that makes of sums, or maxima, what is written.
;; At `sums` (0: where y is) lies what is between.
(func $@{name} (param $x i32) (param $rows i32) (param $cols i32) (param $y i32) (local $s i32) (local $n i32)
;;@ if sums
  (local.set $s (i32.const @{sums}))
;;@ else
  (local.set $s (local.get $y))
;;@ end
;;@ if blocks
  (local.set $n (i32.const @{blocks}))
  (loop $next
    (call $@{block} (local.get $x) (local.get $rows) (local.get $cols) (local.get $s))
    (local.set $x (i32.add (local.get $x) (i32.const @{16 * width})))
    (local.set $s (i32.add (local.get $s) (i32.const @{step})))
    (br_if $next (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
;;@ end
;;@ if last
  (call $@{block_last} (local.get $x) (local.get $rows) (local.get $cols) (local.get $s))
;;@ end
  (call $@{then} (i32.mul (local.get $rows) (local.get $cols)) (local.get $y))
)
