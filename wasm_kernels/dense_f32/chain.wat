;; What dot.wat computes, in the order of gemv.wat: the bias, then k = 0, 1, ..., for the mode deterministic.
;; Products come four at a time, sums one by one; a product of lanes is rounded as one of single values.
(func $@{name} (param $x i32) (param $k_main i32) (param $k_whole i32) (param $rest i32) (param $w i32) (param $y i32)
  (local $xe i32) (local $s f32) (local $p v128) (local $a v128) (local $t v128) (local $n v128)
  (local.set $s (f32.load (local.get $w)))
  (local.set $xe (i32.add (local.get $x) (local.get $k_whole)))
  (if (local.get $k_whole) (then
    (loop $k
      (local.set $w (i32.add (local.get $w) (i32.const 16)))
      (local.set $p (f32x4.mul (v128.load (local.get $w)) (v128.load (local.get $x))))
;;@ for i in 0..4
      (local.set $s (f32.add (local.get $s) (f32x4.extract_lane @{i} (local.get $p))))
;;@ end
      (local.set $x (i32.add (local.get $x) (i32.const 16)))
      (br_if $k (i32.lt_u (local.get $x) (local.get $xe))))))
  (block $out
;;@ for i in 0..3
    (br_if $out (i32.eq (local.get $rest) (i32.const @{i})))
    (local.set $s (f32.add (local.get $s)
      (f32.mul (f32.load offset=@{16 + 4 * i} (local.get $w)) (f32.load offset=@{4 * i} (local.get $x)))))
;;@ end
  )
  (local.set $a (f32x4.splat (local.get $s)))
;;@ if fused
;;@ use @{activation} a=$a
;;@ end
  (v128.store32_lane 0 (local.get $y) (local.get $a))
)
