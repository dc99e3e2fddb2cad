;; `values` numbers of 8 bits of x and of z, added or multiplied as TFLite does, to y, which may be where x or z is.
;; x_one, z_one, rest: as in floats.wat, of vectors of 16.  how: what is computed.
;; "sum": t = x cx + z cz + start, t >> by, or with `away` (t + half - (t < 0)) >> by; cx and cz in two parts (256 high +
;; low), for the product of 16-bit pairs.  The lowering has held it against the definition for all 65,536 pairs; those few for
;; which it is off are mended.
;; "add", "mul": the definition, step by step.
;;@ define scaled
;;@ use fixed_scale a=$@{v}@{k} multiplier=@{m} shift=@{s} half=@{h}
;;@ end
;;@ define mend
    (local.set $a (i8x16.add (local.get $a) (v128.and (i8x16.splat (i32.const @{by_one})) (v128.and
      (i8x16.eq (local.get $p) (i8x16.splat (i32.const @{px})))
      (i8x16.eq (local.get $q) (i8x16.splat (i32.const @{qx})))))))
;;@ end
;;@ define wide
    (local.set $@{to}0 (i32x4.extend_low_i16x8_s (local.get $@{to}1)))
    (local.set $@{to}2 (i32x4.extend_low_i16x8_s (local.get $@{to}3)))
    (local.set $@{to}1 (i32x4.extend_high_i16x8_s (local.get $@{to}1)))
    (local.set $@{to}3 (i32x4.extend_high_i16x8_s (local.get $@{to}3)))
;;@ end
;;@ define one
;;@ if x_one == 0
    (local.set $p (v128.load offset=@{16 * u} (local.get $x)))
;;@ end
;;@ if z_one == 0
    (local.set $q (v128.load offset=@{16 * u} (local.get $z)))
;;@ end
;;@ if how == "sum"
    (local.set $r1 (i8x16.shuffle 0 16 1 17 2 18 3 19 4 20 5 21 6 22 7 23 (local.get $p) (local.get $q)))
    (local.set $r3 (i8x16.shuffle 8 24 9 25 10 26 11 27 12 28 13 29 14 30 15 31 (local.get $p) (local.get $q)))
    (local.set $r0 (i16x8.extend_low_i8x16_s (local.get $r1)))
    (local.set $r1 (i16x8.extend_high_i8x16_s (local.get $r1)))
    (local.set $r2 (i16x8.extend_low_i8x16_s (local.get $r3)))
    (local.set $r3 (i16x8.extend_high_i8x16_s (local.get $r3)))
;;@ for k in 0..4
    (local.set $r@{k} (i32x4.add
      (i32x4.add (i32x4.dot_i16x8_s (local.get $r@{k})
          (v128.const i16x8 @{xl} @{zl} @{xl} @{zl} @{xl} @{zl} @{xl} @{zl})) (i32x4.splat (i32.const @{start})))
      (i32x4.shl (i32x4.dot_i16x8_s (local.get $r@{k})
        (v128.const i16x8 @{xh} @{zh} @{xh} @{zh} @{xh} @{zh} @{xh} @{zh})) (i32.const 8))))
;;@ if away
    (local.set $r@{k} (i32x4.add (i32x4.add (local.get $r@{k}) (i32x4.shr_s (local.get $r@{k}) (i32.const 31)))
      (i32x4.splat (i32.const @{half}))))
;;@ end
    (local.set $r@{k} (i32x4.shr_s (local.get $r@{k}) (i32.const @{by})))
;;@ end
;;@ else
    (local.set $r1 (i16x8.sub (i16x8.extend_low_i8x16_s (local.get $p)) (i16x8.splat (i32.const @{x_zero}))))
    (local.set $r3 (i16x8.sub (i16x8.extend_high_i8x16_s (local.get $p)) (i16x8.splat (i32.const @{x_zero}))))
    (local.set $s1 (i16x8.sub (i16x8.extend_low_i8x16_s (local.get $q)) (i16x8.splat (i32.const @{z_zero}))))
    (local.set $s3 (i16x8.sub (i16x8.extend_high_i8x16_s (local.get $q)) (i16x8.splat (i32.const @{z_zero}))))
;;@ if how == "mul"
    (local.set $r0 (i32x4.extmul_low_i16x8_s (local.get $r1) (local.get $s1)))
    (local.set $r1 (i32x4.extmul_high_i16x8_s (local.get $r1) (local.get $s1)))
    (local.set $r2 (i32x4.extmul_low_i16x8_s (local.get $r3) (local.get $s3)))
    (local.set $r3 (i32x4.extmul_high_i16x8_s (local.get $r3) (local.get $s3)))
;;@ else
;;@ use wide to=r
;;@ use wide to=s
;;@ for k in 0..4
    (local.set $r@{k} (i32x4.shl (local.get $r@{k}) (i32.const 20)))
;;@ use scaled v=r m=@{x_multiplier} s=@{x_shift} h=@{x_half}
    (local.set $s@{k} (i32x4.shl (local.get $s@{k}) (i32.const 20)))
;;@ use scaled v=s m=@{z_multiplier} s=@{z_shift} h=@{z_half}
    (local.set $r@{k} (i32x4.add (local.get $r@{k}) (local.get $s@{k})))
;;@ end
;;@ end
;;@ for k in 0..4
;;@ use scaled v=r m=@{multiplier} s=@{shift} h=@{half}
;;@ end
;;@ end
    (local.set $a (i8x16.narrow_i16x8_s
      (i16x8.add_sat_s (i16x8.narrow_i32x4_s (local.get $r0) (local.get $r1)) (i16x8.splat (i32.const @{zero})))
      (i16x8.add_sat_s (i16x8.narrow_i32x4_s (local.get $r2) (local.get $r3)) (i16x8.splat (i32.const @{zero})))))
;;@ if low > 0 - 128
    (local.set $a (i8x16.max_s (local.get $a) (i8x16.splat (i32.const @{low}))))
;;@ end
;;@ if high < 127
    (local.set $a (i8x16.min_s (local.get $a) (i8x16.splat (i32.const @{high}))))
;;@ end
;;@ if off > 0
;;@ use mend px=@{px0} qx=@{qx0} by_one=@{by0}
;;@ end
;;@ if off > 1
;;@ use mend px=@{px1} qx=@{qx1} by_one=@{by1}
;;@ end
;;@ if off > 2
;;@ use mend px=@{px2} qx=@{qx2} by_one=@{by2}
;;@ end
;;@ if off > 3
;;@ use mend px=@{px3} qx=@{qx3} by_one=@{by3}
;;@ end
;;@ end
(func $@{name} (param $x i32) (param $z i32) (param $y i32) (local $end i32) (local $a v128) (local $p v128)
  (local $q v128)
;;@ for k in 0..4
  (local $r@{k} v128) (local $s@{k} v128)
;;@ end
;;@ if x_one
  (local.set $p (v128.load8_splat (local.get $x)))
;;@ end
;;@ if z_one
  (local.set $q (v128.load8_splat (local.get $z)))
;;@ end
;;@ if rest
;;@ use one u=@{vectors}
  (v128.store offset=@{16 * vectors} (local.get $y) (v128.bitselect (local.get $a)
    (v128.load offset=@{16 * vectors} (local.get $y))
    (i8x16.lt_u (v128.const i8x16 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15) (i8x16.splat (i32.const @{rest})))))
;;@ end
;;@ if vectors
  (local.set $end (i32.add (local.get $y) (i32.const @{16 * vectors})))
  (block $out (loop $next
;;@ for u in 0..unroll
;;@ use one
    (v128.store offset=@{16 * u} (local.get $y) (local.get $a))
;;@ if u < unroll - 1
    (br_if $out (i32.eq (i32.add (local.get $y) (i32.const @{16 * u + 16})) (local.get $end)))
;;@ end
;;@ end
    (local.set $x (i32.add (local.get $x) (i32.const @{16 * unroll})))
    (local.set $z (i32.add (local.get $z) (i32.const @{16 * unroll})))
    (br_if $next (i32.lt_u (local.tee $y (i32.add (local.get $y) (i32.const @{16 * unroll}))) (local.get $end)))))
;;@ end
)
