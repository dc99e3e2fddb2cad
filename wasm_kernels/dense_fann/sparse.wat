;; One layer with connections of its own for each output, on one row, as libfann computes it: x with a 1 behind it in
;; `scratch`; of each output how many connections, its steepness, then for each the offset in x and the weight.
(func $@{name} (param $x i32) (param $y i32)
  (local $w i32) (local $p i32) (local $n i32) (local $end i32) (local $sum f32) (local $most f32)
  (memory.copy (i32.const @{scratch}) (local.get $x) (i32.const @{4 * inputs}))
  (f32.store (i32.const @{scratch + 4 * inputs}) (f32.const 1))
  (local.set $w (i32.const @{weights}))
  (local.set $end (i32.add (local.get $y) (i32.const @{4 * units})))
  (loop $unit
    (local.set $n (i32.load (local.get $w)))
    (local.set $most (f32.load offset=4 (local.get $w)))
    (local.set $w (i32.add (local.get $w) (i32.const 8)))
    (local.set $sum (f32.const 0))
    (local.set $x (i32.add (local.get $w) (i32.shl (local.get $n) (i32.const 3))))
    (local.set $p (i32.add (local.get $w) (i32.shl (i32.and (local.get $n) (i32.const 3)) (i32.const 3))))
    (local.set $n (local.get $p))
    (block $even
      (loop $odd
        (br_if $even (i32.le_u (local.get $p) (local.get $w)))
        (local.set $p (i32.sub (local.get $p) (i32.const 8)))
        (local.set $sum (f32.add (local.get $sum) (f32.mul (f32.load offset=4 (local.get $p))
          (f32.load offset=@{scratch} (i32.load (local.get $p))))))
        (br $odd)))
    (local.set $p (local.get $n))
    (block $all
      (loop $four
        (br_if $all (i32.ge_u (local.get $p) (local.get $x)))
        (local.set $sum (f32.add (local.get $sum) (f32.add (f32.add (f32.add
          (f32.mul (f32.load offset=4 (local.get $p)) (f32.load offset=@{scratch} (i32.load (local.get $p))))
          (f32.mul (f32.load offset=12 (local.get $p)) (f32.load offset=@{scratch} (i32.load offset=8 (local.get $p)))))
          (f32.mul (f32.load offset=20 (local.get $p)) (f32.load offset=@{scratch} (i32.load offset=16 (local.get $p)))))
          (f32.mul (f32.load offset=28 (local.get $p)) (f32.load offset=@{scratch} (i32.load offset=24 (local.get $p)))))))
        (local.set $p (i32.add (local.get $p) (i32.const 32)))
        (br $four)))
    (local.set $sum (f32.mul (local.get $most) (local.get $sum)))
    (local.set $most (f32.div (f32.const 150) (local.get $most)))
    (local.set $sum (f32.max (f32.min (local.get $sum) (local.get $most)) (f32.neg (local.get $most))))
    (f32.store (local.get $y) (call $@{activation} (local.get $sum)))
    (local.set $w (local.get $x))
    (br_if $unit (i32.lt_u (local.tee $y (i32.add (local.get $y) (i32.const 4))) (local.get $end))))
)
