;; A part of FANN's stepwise sigmoids: on |x| the lowest of three lines, with x's sign; 1 from 2.646652937 on and -1
;; below @{low}, where it jumps.  The lines go through FANN's break points.  NaN stays NaN.
(local.set $t (f32x4.abs (local.get @{a})))
(local.set $n (@{fma} (local.get $t) @[0.4334101830] @{into} @[0.2619251192]))
(local.set $n (f32x4.pmin (f32x4.mul (local.get $t) @[0.9102392102]) (local.get $n)))
(local.set $n (f32x4.pmin (local.get $n) (@{fma} (local.get $t) @[0.07663271404] @{into} @[0.7871798119])))
(local.set $t (v128.or (f32x4.ge (local.get @{a}) @[2.646652936935424805])
  (f32x4.lt (local.get @{a}) (v128.const f32x4 @{low} @{low} @{low} @{low}))))
(local.set $n (v128.bitselect @[1] (local.get $n) (local.get $t)))
(local.set @{a} (v128.bitselect (local.get @{a}) (local.get $n) @[-0]))
