;; A depthwise convolution's sums, exact, for one row of outputs:  y = bias + sum of x * weights  in i32, where x comes as
;; `pairs` pairs of rows (interleave.wat) at $x0, $x1, ...: a product and its neighbour are two rows of one column, so
;; nothing is shuffled here, and a vector is 4 channels.
;; `tile` places side by side share what they read; the last tile lies over the one before where the row is no multiple.
;; kw: columns of the kernel, `col_step` bytes apart; x_step, y_step: bytes between places.  Packed weights, for each
;; 4 channels: pair by pair its columns, a vector each.
(func $@{name}
;;@ for p in 0..pairs
  (param $x@{p} i32)
;;@ end
  (param $w i32) (param $bias i32) (param $y i32) (param $never i32)
  (local $at i32) (local $yp i32) (local $v i32)
;;@ for p in 0..pairs
  (local $p@{p} i32)
;;@ end
;;@ for t in 0..tile
  (local $a@{t} v128)
;;@ end
;;@ for k in 0..kw
  (local $w@{k} v128)
;;@ end
  (local $c v128)
  (local.set $v (i32.const @{vectors}))
  (loop $vector
    (local.set $at (i32.const 0))
    (loop $tile
;;@ for p in 0..pairs
      (local.set $p@{p} (i32.add (local.get $x@{p}) (i32.mul (local.get $at) (i32.const @{x_step}))))
;;@ end
      (local.set $yp (i32.add (local.get $y) (i32.mul (local.get $at) (i32.const @{y_step}))))
      (block $out
        (local.set $c (v128.load (local.get $bias)))
;;@ for t in 0..tile
        (local.set $a@{t} (local.get $c))
;;@ end
;;@ for p in 0..pairs
;;@ for k in 0..kw
        (local.set $w@{k} (v128.load offset=@{16 * (p * kw + k)} (local.get $w)))
;;@ end
;;@ for x in 0..(tile - 1) * stride + kw
;;@ use column
;;@ end
;;@ end
      )
;;@ for t in 0..tile
      (v128.store offset=@{t * y_step} (local.get $yp) (local.get $a@{t}))
;;@ end
;;@ if width > tile
      (br_if $tile (i32.ne (local.get $at) (local.tee $at (select
        (i32.add (local.get $at) (i32.const @{tile})) (i32.const @{width - tile})
        (i32.lt_u (i32.add (local.get $at) (i32.const @{tile})) (i32.const @{width - tile}))))))
;;@ end
    )
;;@ for p in 0..pairs
    (local.set $x@{p} (i32.add (local.get $x@{p}) (i32.const 16)))
;;@ end
    (local.set $w (i32.add (local.get $w) (i32.const @{16 * pairs * kw})))
    (local.set $bias (i32.add (local.get $bias) (i32.const 16)))
    (local.set $y (i32.add (local.get $y) (i32.const 16)))
    (br_if $vector (local.tee $v (i32.sub (local.get $v) (i32.const 1)))))
)
;;@ define column
        (local.set $c (v128.load offset=@{x * col_step} (local.get $p@{p})))
;;@ for t in 0..tile
;;@ if x - t * stride >= 0
;;@ if x - t * stride < kw
        (local.set $a@{t} (i32x4.add (local.get $a@{t})
          (i32x4.dot_i16x8_s (local.get $c) (local.get $w@{x - t * stride}))))
;;@ end
;;@ end
;;@ end
        (br_if $out (local.get $never))
;;@ end
