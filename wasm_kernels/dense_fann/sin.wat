;; sin (x + turn pi/2) in double: x = q pi/2 + r, |r| <= pi/4, polynomials of the 17th and 18th degree in r.
(func $@{name} (param $x f64) (param $turn i32) (result f64) (local $q f64) (local $u f64) (local $p f64)
  (local.set $q (f64.nearest (f64.mul (local.get $x) (f64.const 0.6366197723675814))))
  (local.set $x (f64.sub (local.get $x) (f64.mul (local.get $q) (f64.const 1.5707963267341256))))
  (local.set $x (f64.sub (local.get $x) (f64.mul (local.get $q) (f64.const 6.077100506303966e-11))))
  (local.set $x (f64.sub (local.get $x) (f64.mul (local.get $q) (f64.const 2.0222662487959506e-21))))
  (local.set $turn (i32.add (local.get $turn) (i32.trunc_sat_f64_s (local.get $q))))
  (local.set $u (f64.mul (local.get $x) (local.get $x)))
  (if (i32.and (local.get $turn) (i32.const 1))
    (then
      (local.set $p (f64.const -1.5619206968586225e-16))
      @{cosine})
    (else
      (local.set $p (f64.const 2.8114572543455206e-15))
      @{sine}
      (local.set $p (f64.mul (local.get $p) (local.get $x)))))
  (if (result f64) (i32.and (local.get $turn) (i32.const 2))
    (then (f64.neg (local.get $p))) (else (local.get $p)))
)
