;; A dense layer of one output on one row:  y = activation(bias + x . weights);  Cascade nets have dozens of them.
;; Packed weights: a vector with the bias in its first lane, then the weights, 4 a vector, the last padded with zeros.
;; Four sums of four lanes each, added up at the end: another order than gemv.wat's, so this is for the mode fast.
;; $k_main: bytes of x that the loop takes, `steps` vectors a round.  $k_whole: bytes of all whole vectors.
;; $rest: values behind those, 0 to 3; what lies behind them is no part of the row, and is masked.
;; As in gemv.wat, branches that could leave keep the sums in registers, and no sum lives across the loop's head.
;;@ define four
;;@ for i in 0..4
        (local.set $a@{i} (@{fma} (v128.load offset=@{16 * (4 * u + i) + 16} (local.get $w))
          (v128.load offset=@{16 * (4 * u + i)} (local.get $x)) @{into} (local.get $a@{i})))
;;@ end
;;@ end
(func $@{name} (param $x i32) (param $k_main i32) (param $k_whole i32) (param $rest i32) (param $w i32) (param $y i32)
  (local $xe i32) (local $m v128) (local $t v128) (local $n v128)
;;@ for i in 0..4
  (local $a@{i} v128)
;;@ end
  (local.set $a0 (v128.load32_zero (local.get $w)))
  (local.set $xe (i32.add (local.get $x) (local.get $k_whole)))
  (if (local.get $k_main) (then
    (local.set $k_main (i32.add (local.get $x) (local.get $k_main)))
;;@ for i in 0..4
    (v128.store offset=@{16 * i} (i32.const @{scratch}) (local.get $a@{i}))
;;@ end
    (loop $k
      (block $out
;;@ for i in 0..4
        (local.set $a@{i} (v128.load offset=@{16 * i} (i32.const @{scratch})))
;;@ end
;;@ for u in 0..steps // 4
;;@ use four u=@{u}
;;@ if u < steps // 4 - 1
        (br_if $out (i32.eqz (local.get $w)))
;;@ end
;;@ end
      )
;;@ for i in 0..4
      (v128.store offset=@{16 * i} (i32.const @{scratch}) (local.get $a@{i}))
;;@ end
      (local.set $x (i32.add (local.get $x) (i32.const @{16 * steps})))
      (local.set $w (i32.add (local.get $w) (i32.const @{16 * steps})))
      (br_if $k (i32.lt_u (local.get $x) (local.get $k_main))))
;;@ for i in 0..4
    (local.set $a@{i} (v128.load offset=@{16 * i} (i32.const @{scratch})))
;;@ end
  ))
  (block $whole
;;@ for u in 0..steps - 1
    (br_if $whole (i32.eq (i32.add (local.get $x) (i32.const @{16 * u})) (local.get $xe)))
    (local.set $a@{u % 4} (@{fma} (v128.load offset=@{16 * u + 16} (local.get $w))
      (v128.load offset=@{16 * u} (local.get $x)) @{into} (local.get $a@{u % 4})))
;;@ end
  )
  (if (local.get $rest) (then
    (local.set $w (i32.add (local.get $w) (i32.sub (local.get $xe) (local.get $x))))
    (local.set $m (i32x4.lt_u (v128.const i32x4 0 1 2 3) (i32x4.splat (local.get $rest))))
    (local.set $a0 (@{fma} (v128.and (local.get $m) (v128.load offset=16 (local.get $w)))
      (v128.and (local.get $m) (v128.load (local.get $xe))) @{into} (local.get $a0)))))
  (local.set $a0 (f32x4.add (f32x4.add (local.get $a0) (local.get $a1)) (f32x4.add (local.get $a2) (local.get $a3))))
  (local.set $a0 (f32x4.add (local.get $a0)
    (i8x16.shuffle 8 9 10 11 12 13 14 15 0 1 2 3 4 5 6 7 (local.get $a0) (local.get $a0))))
  (local.set $a0 (f32x4.add (local.get $a0)
    (i8x16.shuffle 4 5 6 7 0 1 2 3 12 13 14 15 8 9 10 11 (local.get $a0) (local.get $a0))))
;;@ if fused
;;@ use @{activation} a=$a0
;;@ end
  (v128.store32_lane 0 (local.get $y) (local.get $a0))
)
