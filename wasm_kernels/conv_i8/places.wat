;; A convolution that reads one place of its input for each of its outputs (1 x 1, no stride, or a dense layer: one
;; place): `rows` places at a time, of `places`.  The rest as in layer.wat; `inputs`: values of a place.
(func $@{name} (param $x i32) (param $w i32) (param $s i32) (param $y i32) (local $n i32) (local $left i32)
  (local.set $left (i32.const @{places}))
  (loop $chunk
    (local.set $n (select (local.get $left) (i32.const @{rows}) (i32.lt_u (local.get $left) (i32.const @{rows}))))
    (call $@{widen} (local.get $x) (local.get $n) (local.get $s))
    (call $@{sums} (local.get $s) (i32.add (local.get $w) (i32.const @{weights_at}))
      (i32.add (local.get $w) (i32.const @{bias_at})) (i32.add (local.get $s) (i32.const @{sums_at})) (local.get $n))
    (if (i32.load offset=80 (local.get $w)) (then
      (call $@{any} (i32.add (local.get $s) (i32.const @{sums_at})) (i32.add (local.get $w) (i32.const @{raw_at}))
        (local.get $w) (local.get $y) (local.get $n)))
    (else
      (call $@{quick} (i32.add (local.get $s) (i32.const @{sums_at})) (i32.add (local.get $w) (i32.const @{factors_at}))
        (local.get $w) (local.get $y) (local.get $n) (i32.const 0))))
    (local.set $x (i32.add (local.get $x) (i32.mul (local.get $n) (i32.const @{inputs}))))
    (local.set $y (i32.add (local.get $y) (i32.mul (local.get $n) (i32.const @{outputs}))))
    (br_if $chunk (local.tee $left (i32.sub (local.get $left) (local.get $n)))))
)
