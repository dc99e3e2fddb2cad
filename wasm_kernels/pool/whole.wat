;; A whole window of kernel_h x kernel_w places, few enough to be written out, for all channels of one place.
;; row, pixel: bytes from one row, one place to the next.  of: f32 or i8.  maximum: 1, or 0 for the mean.
;; float32, `vectors` of 4 channels: a maximum remembers NaN beside it, for pmax loses it.
;; 8 bits, `vectors` of 16 channels: sums of at most 16 values fit in 16 bits; (sum +- half the count) / count, cut off, is
;; exact in float32 and rounds halves away from 0.
(func $@{name} (param $x i32) (param $y i32) (local $end i32) (local $a v128) (local $b v128) (local $t v128)
  (local $n v128)
;;@ for k in 0..4
  (local $s@{k} v128)
;;@ end
  (local.set $end (i32.add (local.get $y) (i32.const @{16 * vectors})))
  (loop $next
;;@ if of == "f32"
    (local.set $a (v128.load (local.get $x)))
;;@ if maximum
    (local.set $b (f32x4.ne (local.get $a) (local.get $a)))
;;@ end
;;@ for k in 1..kernel_h * kernel_w
;;@ if maximum
    (local.set $t (v128.load offset=@{k // kernel_w * row + k % kernel_w * pixel} (local.get $x)))
    (local.set $b (v128.or (local.get $b) (f32x4.ne (local.get $t) (local.get $t))))
    (local.set $a (f32x4.pmax (local.get $a) (local.get $t)))
;;@ else
    (local.set $a (f32x4.add (local.get $a)
      (v128.load offset=@{k // kernel_w * row + k % kernel_w * pixel} (local.get $x))))
;;@ end
;;@ end
;;@ if maximum
    (local.set $a (v128.or (local.get $a) (local.get $b)))
;;@ else
    (local.set $a (f32x4.div (local.get $a) (f32x4.splat (f32.const @{kernel_h * kernel_w}))))
;;@ end
;;@ if activation
;;@ use @{activation} a=$a
;;@ end
;;@ else
;;@ if maximum
    (local.set $a (v128.load (local.get $x)))
;;@ for k in 1..kernel_h * kernel_w
    (local.set $a (i8x16.max_s (local.get $a)
      (v128.load offset=@{k // kernel_w * row + k % kernel_w * pixel} (local.get $x))))
;;@ end
;;@ else
    (local.set $a (v128.load8x8_s (local.get $x)))
    (local.set $b (v128.load8x8_s offset=8 (local.get $x)))
;;@ for k in 1..kernel_h * kernel_w
    (local.set $a (i16x8.add (local.get $a)
      (v128.load8x8_s offset=@{k // kernel_w * row + k % kernel_w * pixel} (local.get $x))))
    (local.set $b (i16x8.add (local.get $b)
      (v128.load8x8_s offset=@{k // kernel_w * row + k % kernel_w * pixel + 8} (local.get $x))))
;;@ end
    (local.set $s0 (f32x4.convert_i32x4_s (i32x4.extend_low_i16x8_s (local.get $a))))
    (local.set $s1 (f32x4.convert_i32x4_s (i32x4.extend_high_i16x8_s (local.get $a))))
    (local.set $s2 (f32x4.convert_i32x4_s (i32x4.extend_low_i16x8_s (local.get $b))))
    (local.set $s3 (f32x4.convert_i32x4_s (i32x4.extend_high_i16x8_s (local.get $b))))
;;@ for k in 0..4
    (local.set $s@{k} (@{trunc} (f32x4.div (f32x4.add (local.get $s@{k}) (v128.or (f32x4.splat (f32.const @{kernel_h * kernel_w // 2}))
      (v128.and (local.get $s@{k}) (i32x4.splat (i32.const 0x80000000)))))
      (f32x4.splat (f32.const @{kernel_h * kernel_w})))))
;;@ end
    (local.set $a (i8x16.narrow_i16x8_s (i16x8.narrow_i32x4_s (local.get $s0) (local.get $s1))
      (i16x8.narrow_i32x4_s (local.get $s2) (local.get $s3))))
;;@ end
;;@ if low > 0 - 128
    (local.set $a (i8x16.max_s (local.get $a) (i8x16.splat (i32.const @{low}))))
;;@ end
;;@ if high < 127
    (local.set $a (i8x16.min_s (local.get $a) (i8x16.splat (i32.const @{high}))))
;;@ end
;;@ end
    (v128.store (local.get $y) (local.get $a))
    (local.set $x (i32.add (local.get $x) (i32.const 16)))
    (br_if $next (i32.lt_u (local.tee $y (i32.add (local.get $y) (i32.const 16))) (local.get $end))))
)
