;; What becomes of the sums of $count values, or of maxima: a mean, an activation, bounds.  `vectors` of what is written.
;; float32: in place.  8 bits: sums at `sums`, maxima in place; (sum +- count / 2) / count, cut off, rounds halves away from
;; 0 and is exact in float32 while a sum is below 2^24 and the count below 2^17; beyond (`wide`) value by value.
(func $@{name} (param $count i32) (param $y i32) (local $end i32) (local $s i32) (local $a v128) (local $t v128)
  (local $n v128) (local $c v128) (local $half v128) (local $v i32)
;;@ for k in 0..4
  (local $s@{k} v128)
;;@ end
  (local.set $end (i32.add (local.get $y) (i32.const @{16 * vectors})))
  (local.set $s (i32.const @{sums}))
  (local.set $c (f32x4.splat (f32.convert_i32_u (local.get $count))))
  (local.set $half (f32x4.splat (f32.convert_i32_u (i32.shr_u (local.get $count) (i32.const 1)))))
  (loop $next
;;@ if of == "f32"
    (local.set $a (v128.load (local.get $y)))
;;@ if maximum == 0
    (local.set $a (f32x4.div (local.get $a) (local.get $c)))
;;@ end
;;@ if activation
;;@ use @{activation} a=$a
;;@ end
;;@ else
;;@ if maximum
    (local.set $a (v128.load (local.get $y)))
;;@ else
;;@ if wide
;;@ for k in 0..16
    (local.set $v (i32.load offset=@{4 * k} (local.get $s)))
    (local.set $v (i32.div_s (i32.add (local.get $v) (i32.sub
      (i32.xor (i32.shr_u (local.get $count) (i32.const 1)) (i32.shr_s (local.get $v) (i32.const 31)))
      (i32.shr_s (local.get $v) (i32.const 31)))) (local.get $count)))
    (local.set $a (i8x16.replace_lane @{k} (local.get $a) (local.get $v)))
;;@ end
;;@ else
;;@ for k in 0..4
    (local.set $s@{k} (f32x4.convert_i32x4_s (v128.load offset=@{16 * k} (local.get $s))))
    (local.set $s@{k} (@{trunc} (f32x4.div (f32x4.add (local.get $s@{k}) (v128.or (local.get $half)
      (v128.and (local.get $s@{k}) (i32x4.splat (i32.const 0x80000000))))) (local.get $c))))
;;@ end
    (local.set $a (i8x16.narrow_i16x8_s (i16x8.narrow_i32x4_s (local.get $s0) (local.get $s1))
      (i16x8.narrow_i32x4_s (local.get $s2) (local.get $s3))))
;;@ end
    (local.set $s (i32.add (local.get $s) (i32.const 64)))
;;@ end
;;@ if low > 0 - 128
    (local.set $a (i8x16.max_s (local.get $a) (i8x16.splat (i32.const @{low}))))
;;@ end
;;@ if high < 127
    (local.set $a (i8x16.min_s (local.get $a) (i8x16.splat (i32.const @{high}))))
;;@ end
;;@ end
    (v128.store (local.get $y) (local.get $a))
    (br_if $next (i32.lt_u (local.tee $y (i32.add (local.get $y) (i32.const 16))) (local.get $end))))
)
