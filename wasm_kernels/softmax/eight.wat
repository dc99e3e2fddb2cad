;; softmax of one row of `values` 8-bit numbers, to the bit as model/fixed_point_softmax.py: powers come from a table of 256
;; by how far a value lies below the largest, at `table`; their sum, its reciprocal by Newton, one product for each value.
;; y may be where x is: each value is read before it is written, and only its own place is.
;;@ define high
(i32.wrap_i64 (i64.shr_s (i64.add (i64.mul (i64.extend_i32_s (local.get @{p})) (i64.extend_i32_s (local.get @{q})))
  (i64.const 0x40000000)) (i64.const 31)))
;;@ end
(func $@{name} (param $x i32) (param $y i32) (local $i i32) (local $max i32) (local $v i32) (local $sum i32)
  (local $r i32) (local $half i32) (local $t i32) (local $by i32)
  (local.set $max (i32.const -128))
  (loop $most
    (local.set $v (i32.load8_s (i32.add (local.get $x) (local.get $i))))
    (local.set $max (select (local.get $v) (local.get $max) (i32.gt_s (local.get $v) (local.get $max))))
    (br_if $most (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const @{values}))))
  (local.set $i (i32.const 0))
  (loop $add
    (local.set $v (i32.load offset=@{table} (i32.shl (i32.sub (local.get $max)
      (i32.load8_s (i32.add (local.get $x) (local.get $i)))) (i32.const 2))))
    (local.set $sum (i32.add (local.get $sum) (i32.shr_u (i32.add (local.get $v) (i32.const 2048)) (i32.const 12))))
    (br_if $add (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const @{values}))))
  (local.set $by (i32.clz (local.get $sum)))
  (local.set $half (i32.shr_u (i32.shl (local.get $sum) (local.get $by)) (i32.const 1)))
  (local.set $t (i32.const -1010580540))
  (local.set $r (i32.add (i32.const 1515870810)
;;@ use high p=$half q=$t
  ))
;;@ for k in 0..3
  (local.set $t (i32.sub (i32.const 0x20000000)
;;@ use high p=$half q=$r
  ))
  (local.set $r (i32.add (local.get $r) (i32.shl
;;@ use high p=$r q=$t
    (i32.const 2))))
;;@ end
  (local.set $r (select (i32.const 0x7fffffff) (i32.shl (local.get $r) (i32.const 1))
    (i32.ge_u (local.get $r) (i32.const 0x40000000))))
  (local.set $by (i32.sub (i32.const 35) (local.get $by)))
  (local.set $i (i32.const 0))
  (loop $each
    (local.set $v (i32.load offset=@{table} (i32.shl (i32.sub (local.get $max)
      (i32.load8_s (i32.add (local.get $x) (local.get $i)))) (i32.const 2))))
    (local.set $t
;;@ use high p=$v q=$r
    )
    (local.set $t (i32.sub (i32.wrap_i64 (i64.shr_u (i64.add (i64.extend_i32_u (local.get $t))
        (i64.shl (i64.const 1) (i64.extend_i32_u (i32.sub (local.get $by) (i32.const 1)))))
      (i64.extend_i32_u (local.get $by)))) (i32.const 128)))
    (i32.store8 (i32.add (local.get $y) (local.get $i))
      (select (local.get $t) (i32.const 127) (i32.lt_s (local.get $t) (i32.const 127))))
    (br_if $each (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const @{values}))))
)
