;; A depthwise convolution for one row of outputs, exact, down to its 8 bits.  x comes as `pairs` pairs of rows
;; (interleave.wat) at $x0, $x1, ...: a product and its neighbour are two rows of one column, so nothing is shuffled
;; here, and a vector is 4 channels.  kw: columns of the kernel, `col_step` bytes apart; x_step: bytes between places.
;; `tile` places side by side share what they read; the last tile lies over the one before where the row is no multiple.
;;
;; $w: the packed records (pack_depthwise_i8.py), one for each 4 channels, of which this reads the last first: where the
;; last vector is not full, it writes into the next place, whose first channels follow later.  A record is the bias, the
;; factors, and the weights: pair by pair its columns, a vector each.  Where a tile is a whole row (`biases`: its places),
;; each place has a bias of its own, which holds what margins would add; `skip` of its columns lie left of the row's
;; `columns`.  plain: all 8-bit numbers are answers, and the lowest is the zero point.  The factors' last word is a mark: MARK_SHORT,
;; float32 lies there; MARK_SUMS: no floats hold these sums, and they go to $s, `s_step` bytes a place; else float64.
;; What is done with them is told in requantise.wat; here it is done to what is in registers.  In float32 the product and
;; the addend are rounded once or twice, as the machine does it: packing has tried both.
;; $never is 0: arithmetic stays beside its loads by a branch behind every `between` columns.
(func $@{name}
;;@ for p in 0..pairs
  (param $x@{p} i32)
;;@ end
  (param $w i32) (param $y i32) (param $s i32) (param $never i32)
  (local $at i32) (local $v i32) (local $z i32) (local $mark i32)
;;@ for p in 0..pairs
  (local $p@{p} i32)
;;@ end
;;@ for t in 0..tile
  (local $a@{t} v128)
;;@ end
;;@ for k in 0..kw
  (local $w@{k} v128)
;;@ end
  (local $c v128) (local $h0 v128) (local $h1 v128) (local $m0 v128) (local $m1 v128) (local $o0 v128) (local $o1 v128)
;;@ for p in 0..pairs
  (local.set $x@{p} (i32.add (local.get $x@{p}) (i32.const @{16 * (vectors - 1)})))
;;@ end
  (local.set $w (i32.add (local.get $w) (i32.const @{record_bytes * (vectors - 1)})))
  (local.set $y (i32.add (local.get $y) (i32.const @{4 * (vectors - 1)})))
  (local.set $v (i32.const @{vectors - 1}))
  (loop $vector
;;@ if width > tile
    (local.set $at (i32.const 0))
    (loop $tile
;;@ for p in 0..pairs
      (local.set $p@{p} (i32.add (local.get $x@{p}) (i32.mul (local.get $at) (i32.const @{x_step}))))
;;@ end
      (local.set $z (i32.add (local.get $y) (i32.mul (local.get $at) (i32.const @{y_step}))))
;;@ use tile x=p y=z
      (br_if $tile (i32.ne (local.get $at) (local.tee $at (select
        (i32.add (local.get $at) (i32.const @{tile})) (i32.const @{width - tile})
        (i32.lt_u (i32.add (local.get $at) (i32.const @{tile})) (i32.const @{width - tile})))))))
;;@ else
;;@ use tile x=x y=y
;;@ end
;;@ for p in 0..pairs
    (local.set $x@{p} (i32.sub (local.get $x@{p}) (i32.const 16)))
;;@ end
    (local.set $w (i32.sub (local.get $w) (i32.const @{record_bytes})))
    (local.set $y (i32.sub (local.get $y) (i32.const 4)))
    (br_if $vector (i32.ge_s (local.tee $v (i32.sub (local.get $v) (i32.const 1))) (i32.const 0))))
)
;;@ define tile
      (block $out
;;@ for t in 0..tile
        (local.set $a@{t} (v128.load offset=@{16 * t * (biases > 1)} (local.get $w)))
;;@ end
;;@ for p in 0..pairs
;;@ for k in 0..kw
        (local.set $w@{k} (v128.load offset=@{weights_at + 16 * (p * kw + k)} (local.get $w)))
;;@ end
;;@ for r in 0..stride
;;@ for j in 0..tile + (kw - 1 - r) // stride
;;@ if r < kw
;;@ if j * stride + r >= skip and j * stride + r < skip + columns
;;@ use column i=@{j * stride + r}
;;@ end
;;@ if j == tile - 1 + (kw - 1 - r) // stride
        (br_if $out (local.get $never))
;;@ else
;;@ if p + r > 0
;;@ if j % between == between - 1
        (br_if $out (local.get $never))
;;@ end
;;@ else
;;@ if j == tile - 1
        (br_if $out (local.get $never))
;;@ end
;;@ end
;;@ end
;;@ end
;;@ end
;;@ end
;;@ end
      )
      (local.set $mark (i32.load offset=@{weights_at - 4} (local.get $w)))
      (block $stored
        (if (i32.eq (local.get $mark) (i32.const @{mark_short})) (then
;;@ use short
        ) (else
          (if (i32.eq (local.get $mark) (i32.const @{mark_sums})) (then
;;@ use sums
            (br $stored)))
;;@ use long
        ))
;;@ use bytes
      )
;;@ end
;;@ define column
        (local.set $c (v128.load offset=@{(i - skip) * col_step} (local.get $@{x}@{p})))
;;@ for t in 0..tile
;;@ if i - t * stride >= 0
;;@ if i - t * stride < kw
        (local.set $a@{t} (i32x4.add (local.get $a@{t})
          (i32x4.dot_i16x8_s (local.get $c) (local.get $w@{i - t * stride}))))
;;@ end
;;@ end
;;@ end
;;@ end
;;@ define sums
;;@ for t in 0..tile
            (v128.store offset=@{t * s_step} (i32.add (local.get $s) (i32.add (i32.mul (local.get $v) (i32.const 16))
              (i32.mul (local.get $at) (i32.const @{s_step})))) (local.get $a@{t}))
;;@ end
;;@ end
;;@ define short
          (local.set $m0 (v128.load offset=@{16 * biases} (local.get $w)))
          (local.set $o0 (v128.load offset=@{16 * biases + 16} (local.get $w)))
;;@ for t in 0..tile
          (local.set $c (f32x4.convert_i32x4_s (local.get $a@{t})))
;;@ if signed
          (local.set $a@{t} (i32x4.relaxed_trunc_f32x4_s (f32x4.relaxed_madd (local.get $c) (local.get $m0)
            (v128.or (local.get $o0) (v128.and (local.get $c)
              (v128.const i32x4 0x80000000 0x80000000 0x80000000 0x80000000))))))
;;@ else
          (local.set $a@{t} (i32x4.relaxed_trunc_f32x4_s
            (f32x4.relaxed_madd (local.get $c) (local.get $m0) (local.get $o0))))
;;@ end
;;@ if t % 2 or t == tile - 1
          (local.set $a@{t - t % 2} (i16x8.narrow_i32x4_s (local.get $a@{t - t % 2}) (local.get $a@{t})))
;;@ if plain == 0
          (local.set $a@{t - t % 2} (i16x8.add_sat_s (local.get $a@{t - t % 2}) (i16x8.splat (i32.const @{zero_out}))))
;;@ end
;;@ end
;;@ end
;;@ end
;;@ define long
;;@ for h in 0..2
          (local.set $m@{h} (v128.load offset=@{16 * biases + 0 + 16 * h} (local.get $w)))
          (local.set $o@{h} (v128.load offset=@{16 * biases + 32 + 16 * h} (local.get $w)))
;;@ end
;;@ for t in 0..tile
          (local.set $h0 (f64x2.convert_low_i32x4_s (local.get $a@{t})))
          (local.set $h1 (f64x2.convert_low_i32x4_s (i8x16.shuffle 8 9 10 11 12 13 14 15 8 9 10 11 12 13 14 15
            (local.get $a@{t}) (local.get $a@{t}))))
;;@ for h in 0..2
;;@ if signed
          (local.set $h@{h} (f64x2.add (f64x2.add
            (v128.or (v128.and (local.get $h@{h}) (v128.const i64x2 0x8000000000000000 0x8000000000000000))
              (v128.load offset=@{16 * biases + 64 + 16 * h} (local.get $w)))
            (f64x2.relaxed_madd (local.get $h@{h}) (local.get $m@{h}) (local.get $o@{h}))) (f64x2.splat (f64.const @{magic}))))
;;@ else
          (local.set $h@{h} (f64x2.add
            (f64x2.relaxed_madd (local.get $h@{h}) (local.get $m@{h}) (local.get $o@{h})) (f64x2.splat (f64.const @{magic}))))
;;@ end
;;@ end
          (local.set $a@{t} (i8x16.shuffle 0 1 2 3 8 9 10 11 16 17 18 19 24 25 26 27 (local.get $h0) (local.get $h1)))
;;@ if t % 2 or t == tile - 1
          (local.set $a@{t - t % 2} (i16x8.narrow_i32x4_s (local.get $a@{t - t % 2}) (local.get $a@{t})))
;;@ end
;;@ end
;;@ end
;;@ define bytes
;;@ for q in 0..(tile + 3) // 4
;;@ if plain
        (local.set $c (v128.xor (i8x16.splat (i32.const 128))
          (i8x16.narrow_i16x8_u (local.get $a@{4 * q}) (local.get $a@{4 * q + 2 * (4 * q + 2 < tile)}))))
;;@ else
        (local.set $c (i8x16.narrow_i16x8_s (local.get $a@{4 * q}) (local.get $a@{4 * q + 2 * (4 * q + 2 < tile)})))
;;@ if low > -128
        (local.set $c (i8x16.max_s (local.get $c) (i8x16.splat (i32.const @{low}))))
;;@ end
;;@ if high < 127
        (local.set $c (i8x16.min_s (local.get $c) (i8x16.splat (i32.const @{high}))))
;;@ end
;;@ end
;;@ for t in 4 * q..4 * q + 4
;;@ if t < tile
;;@ if t == 4 * q
        (f32.store offset=@{t * y_step} (local.get $@{y}) (f32x4.extract_lane 0 (local.get $c)))
;;@ else
        (v128.store32_lane offset=@{t * y_step} @{t - 4 * q} (local.get $@{y}) (local.get $c))
;;@ end
;;@ end
;;@ end
;;@ end
;;@ end
