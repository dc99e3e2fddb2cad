;; $rows rows of $cols places of a window, for `width` vectors of channels (8 bits: one, of 16 channels): their sums, or
;; their maxima, to $y.  8 bits: sums as four vectors of 32 bits.  row, pixel: bytes between rows and places.
;; Eight places a round; sums lie in memory between rounds (dense_f32/gemv.wat tells why), and 8 values of 8 bits fit in 16.
;;@ define round
;;@ if of == "f32"
;;@ for i in 0..width
    (local.set $a@{i} (v128.load offset=@{16 * i} (local.get $y)))
;;@ end
;;@ for k in 0..places
;;@ for i in 0..width
    (local.set $a@{i} (@{join} (local.get $a@{i}) (v128.load offset=@{k * pixel + 16 * i} (local.get $p))))
;;@ end
;;@ end
;;@ for i in 0..width
    (v128.store offset=@{16 * i} (local.get $y) (local.get $a@{i}))
;;@ end
;;@ else
;;@ if maximum
    (local.set $a0 (v128.load (local.get $y)))
;;@ for k in 0..places
    (local.set $a0 (i8x16.max_s (local.get $a0) (v128.load offset=@{k * pixel} (local.get $p))))
;;@ end
    (v128.store (local.get $y) (local.get $a0))
;;@ else
    (local.set $a0 (v128.load8x8_s (local.get $p)))
    (local.set $a1 (v128.load8x8_s offset=8 (local.get $p)))
;;@ for k in 1..places
    (local.set $a0 (i16x8.add (local.get $a0) (v128.load8x8_s offset=@{k * pixel} (local.get $p))))
    (local.set $a1 (i16x8.add (local.get $a1) (v128.load8x8_s offset=@{k * pixel + 8} (local.get $p))))
;;@ end
;;@ for i in 0..2
    (v128.store offset=@{32 * i} (local.get $y)
      (i32x4.add (v128.load offset=@{32 * i} (local.get $y)) (i32x4.extend_low_i16x8_s (local.get $a@{i}))))
    (v128.store offset=@{32 * i + 16} (local.get $y)
      (i32x4.add (v128.load offset=@{32 * i + 16} (local.get $y)) (i32x4.extend_high_i16x8_s (local.get $a@{i}))))
;;@ end
;;@ end
;;@ end
    (local.set $p (i32.add (local.get $p) (i32.const @{places * pixel})))
;;@ end
(func $@{name} (param $x i32) (param $rows i32) (param $cols i32) (param $y i32) (local $p i32) (local $n i32)
;;@ for i in 0..width + (of == "i8")
  (local $a@{i} v128)
;;@ end
;;@ for i in 0..width + 3 * (of == "i8") * (maximum == 0)
;;@ if maximum
  (v128.store offset=@{16 * i} (local.get $y) (v128.load offset=@{16 * i} (local.get $x)))
;;@ else
  (v128.store offset=@{16 * i} (local.get $y) @[0])
;;@ end
;;@ end
  (loop $row
    (local.set $p (local.get $x))
    (local.set $n (local.get $cols))
    (if (i32.ge_u (local.get $n) (i32.const 8)) (then
      (loop $eight
;;@ use round places=8
        (br_if $eight (i32.ge_u (local.tee $n (i32.sub (local.get $n) (i32.const 8))) (i32.const 8))))))
    (if (local.get $n) (then
      (loop $one
;;@ use round places=1
        (br_if $one (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))))
    (local.set $x (i32.add (local.get $x) (i32.const @{row})))
    (br_if $row (local.tee $rows (i32.sub (local.get $rows) (i32.const 1)))))
)
