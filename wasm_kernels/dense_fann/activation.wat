;; One of FANN's activations as libfann rounds it: in double where C computes it there, then to float32 once.
(func $@{name} (param $s f32) (result f32) (local $d f64)
  (if (f32.ne (local.get $s) (local.get $s)) (then (return (f32.const nan))))
  (local.set $d (f64.promote_f32 (local.get $s)))
  @{value}
)
