;; `groups` groups of 8 values: y = table[q + 128], the table 256 bytes at `table`; x and y may be the same.
;; One load for each value: sixteen shuffles of a vector each are no faster.
(func $@{name} (param $x i32) (param $y i32) (local $end i32) (local $q i64)
  (local.set $end (i32.add (local.get $x) (i32.const @{8 * groups})))
  (loop $next
    (local.set $q (i64.xor (i64.load (local.get $x)) (i64.const 0x8080808080808080)))
;;@ for i in 0..8
    (i32.store8 offset=@{i} (local.get $y) (i32.load8_u offset=@{table}
      (i32.and (i32.wrap_i64 (i64.shr_u (local.get $q) (i64.const @{8 * i}))) (i32.const 255))))
;;@ end
    (local.set $y (i32.add (local.get $y) (i32.const 8)))
    (br_if $next (i32.lt_u (local.tee $x (i32.add (local.get $x) (i32.const 8))) (local.get $end))))
)
