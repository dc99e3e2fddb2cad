;; One layer on one row as libfann computes it: `count` connections, of which number `bias` is the 1.  Four outputs a
;; panel; a panel is a vector of weights for each connection, then its steepness.  Nothing is fused, and the order of
;; the sums is libfann's: `odd` ones from the last to the first, then by fours.
(func $@{name} (param $x i32) (param $y i32)
  (local $w i32) (local $p i32) (local $end i32) (local $sum v128) (local $most v128)
  (memory.copy (i32.const @{scratch}) (local.get $x) (i32.const @{4 * bias}))
  (f32.store (i32.const @{scratch + 4 * bias}) (f32.const 1))
  (memory.copy (i32.const @{scratch + 4 * bias + 4}) (i32.add (local.get $x) (i32.const @{4 * bias}))
    (i32.const @{4 * (count - 1 - bias)}))
  (local.set $w (i32.const @{weights}))
  (local.set $x (local.get $y))
  (local.set $end (i32.add (local.get $y) (i32.const @{16 * panels})))
  (loop $panel
    (local.set $sum @[0])
    ;;@ for i in 0..odd
    (local.set $sum (f32x4.add (local.get $sum) (f32x4.mul (v128.load offset=@{16 * (odd - 1 - i)} (local.get $w))
      (v128.load32_splat (i32.const @{scratch + 4 * (odd - 1 - i)})))))
    ;;@ end
    ;;@ if fours > 0
    (local.set $w (i32.add (local.get $w) (i32.const @{16 * odd})))
    (local.set $p (i32.const @{scratch + 4 * odd}))
    (loop $four
      (local.set $sum (f32x4.add (local.get $sum)
        (f32x4.add (f32x4.add (f32x4.add
          (f32x4.mul (v128.load (local.get $w)) (v128.load32_splat (local.get $p)))
          (f32x4.mul (v128.load offset=16 (local.get $w)) (v128.load32_splat offset=4 (local.get $p))))
          (f32x4.mul (v128.load offset=32 (local.get $w)) (v128.load32_splat offset=8 (local.get $p))))
          (f32x4.mul (v128.load offset=48 (local.get $w)) (v128.load32_splat offset=12 (local.get $p))))))
      (local.set $w (i32.add (local.get $w) (i32.const 64)))
      (br_if $four (i32.lt_u (local.tee $p (i32.add (local.get $p) (i32.const 16))) (i32.const @{scratch + 4 * count}))))
    ;;@ else
    (local.set $w (i32.add (local.get $w) (i32.const @{16 * odd})))
    ;;@ end
    (local.set $most (f32x4.div @[150] (v128.load (local.get $w))))
    (local.set $sum (f32x4.mul (v128.load (local.get $w)) (local.get $sum)))
    (local.set $sum (f32x4.pmin (local.get $sum) (local.get $most)))
    (local.set $sum (f32x4.pmax (local.get $sum) (f32x4.neg (local.get $most))))
    (v128.store (local.get $y) (local.get $sum))
    (local.set $w (i32.add (local.get $w) (i32.const 16)))
    (br_if $panel (i32.lt_u (local.tee $y (i32.add (local.get $y) (i32.const 16))) (local.get $end))))
  (local.set $end (i32.add (local.get $x) (i32.const @{4 * units})))
  (loop $unit
    (f32.store (local.get $x) (call $@{activation} (f32.load (local.get $x))))
    (br_if $unit (i32.lt_u (local.tee $x (i32.add (local.get $x) (i32.const 4))) (local.get $end))))
)
