;; e^x in double: x = n ln 2 + r, |r| <= 0.3466, a polynomial of the 13th degree in r, times 2^n.
(func $@{name} (param $x f64) (result f64) (local $n f64) (local $p f64)
  (if (f64.gt (local.get $x) (f64.const 709)) (then (return (f64.const inf))))
  (if (f64.lt (local.get $x) (f64.const -708)) (then (return (f64.const 0))))
  (local.set $n (f64.nearest (f64.mul (local.get $x) (f64.const 1.4426950408889634))))
  (local.set $x (f64.sub (local.get $x) (f64.mul (local.get $n) (f64.const 0.6931471803691238))))
  (local.set $x (f64.sub (local.get $x) (f64.mul (local.get $n) (f64.const 1.9082149292705877e-10))))
  (local.set $p (f64.const 1.6059043836821613e-10))
  @{steps}
  (f64.mul (local.get $p)
    (f64.reinterpret_i64 (i64.shl (i64.add (i64.trunc_sat_f64_s (local.get $n)) (i64.const 1023)) (i64.const 52))))
)
