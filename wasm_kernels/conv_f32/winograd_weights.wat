;; G g G' of each 3x3 kernel g: packed panels at $w -> panels of the same form for each of the 16 places, u_bytes apart.
;; G: 1 0 0, 1/2 1/2 1/2, 1/2 -1/2 1/2, 0 0 1.  Only the place (1, 1) has a bias: it reaches each output once.
(func $@{name} (param $w i32) (param $u i32) (param $panels i32)
  (local $left i32) (local $a v128) (local $b v128) (local $e v128)
;;@ for i in 0..3
;;@ for j in 0..4
  (local $r@{i}@{j} v128)
;;@ end
;;@ end
  (loop $panel
;;@ for p in 0..16
;;@ for c in 0..2
    (v128.store offset=@{p * u_bytes + 16 * c} (local.get $u)
;;@ if p == 5
      (v128.load offset=@{16 * c} (local.get $w)))
;;@ else
      @[0])
;;@ end
;;@ end
;;@ end
    (local.set $left (i32.const @{channels}))
    (loop $channel
;;@ for c in 0..2
;;@ for i in 0..3
      (local.set $r@{i}0 (v128.load offset=@{32 * (1 + 3 * i * channels) + 16 * c} (local.get $w)))
      (local.set $b (v128.load offset=@{32 * (1 + (3 * i + 1) * channels) + 16 * c} (local.get $w)))
      (local.set $r@{i}3 (v128.load offset=@{32 * (1 + (3 * i + 2) * channels) + 16 * c} (local.get $w)))
      (local.set $a (f32x4.mul (f32x4.add (local.get $r@{i}0) (local.get $r@{i}3)) @[0.5]))
      (local.set $b (f32x4.mul (local.get $b) @[0.5]))
      (local.set $r@{i}1 (f32x4.add (local.get $a) (local.get $b)))
      (local.set $r@{i}2 (f32x4.sub (local.get $a) (local.get $b)))
;;@ end
;;@ for j in 0..4
      (local.set $a (f32x4.mul (f32x4.add (local.get $r0@{j}) (local.get $r2@{j})) @[0.5]))
      (local.set $b (f32x4.mul (local.get $r1@{j}) @[0.5]))
      (v128.store offset=@{j * u_bytes + 32 + 16 * c} (local.get $u) (local.get $r0@{j}))
      (v128.store offset=@{(4 + j) * u_bytes + 32 + 16 * c} (local.get $u) (f32x4.add (local.get $a) (local.get $b)))
      (v128.store offset=@{(8 + j) * u_bytes + 32 + 16 * c} (local.get $u) (f32x4.sub (local.get $a) (local.get $b)))
      (v128.store offset=@{(12 + j) * u_bytes + 32 + 16 * c} (local.get $u) (local.get $r2@{j}))
;;@ end
;;@ end
      (local.set $w (i32.add (local.get $w) (i32.const 32)))
      (local.set $u (i32.add (local.get $u) (i32.const 32)))
      (br_if $channel (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (local.set $w (i32.add (local.get $w) (i32.const @{32 + 8 * 32 * channels})))
    (local.set $u (i32.add (local.get $u) (i32.const 32)))
    (br_if $panel (local.tee $panels (i32.sub (local.get $panels) (i32.const 1)))))
)
