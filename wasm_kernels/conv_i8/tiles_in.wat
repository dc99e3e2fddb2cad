;; Tiles of 6 x 6 places of rows with margins (i8) -> their transforms for a 3 x 3 kernel:  v = B d B'  in i16, exact.
;; Winograd's F(4 x 4, 3 x 3) (Lavin and Gray 2016, arXiv:1509.09308) with the points 0, 1, -1, 2, -2; |v| <= 100 * 128.
;; $x: the first tile's place; 4 places on lies the next; `row_step`, `in_step`: bytes between places; col_step: here twice
;; that.  `tiles` tiles,
;; `groups` groups of 8 channels.  $v: place by place (of 36) all tiles, channels side by side; $t: 576 bytes for itself.
;;@ define line
        (local.set $e (i16x8.sub (local.get $d4) (i16x8.shl (local.get $d2) (i32.const 2))))
        (local.set $f (i16x8.sub (local.get $d3) (i16x8.shl (local.get $d1) (i32.const 2))))
        (local.set $g (i16x8.sub (local.get $d4) (local.get $d2)))
        (local.set $h (i16x8.sub (local.get $d3) (local.get $d1)))
        (local.set $h (i16x8.add (local.get $h) (local.get $h)))
        (v128.store offset=@{at} (local.get $@{to}) (i16x8.add (i16x8.shl (local.get $d0) (i32.const 2))
          (i16x8.sub (local.get $e) (local.get $d2))))
        (v128.store offset=@{at + step} (local.get $@{to}) (i16x8.add (local.get $e) (local.get $f)))
        (v128.store offset=@{at + 2 * step} (local.get $@{to}) (i16x8.sub (local.get $e) (local.get $f)))
        (v128.store offset=@{at + 3 * step} (local.get $@{to}) (i16x8.add (local.get $g) (local.get $h)))
        (v128.store offset=@{at + 4 * step} (local.get $@{to}) (i16x8.sub (local.get $g) (local.get $h)))
        (v128.store offset=@{at + 5 * step} (local.get $@{to}) (i16x8.sub (i16x8.sub (local.get $d5) (local.get $d3))
          (i16x8.add (local.get $h) (local.get $h))))
;;@ end
(func $@{name} (param $x i32) (param $v i32) (param $t i32) (local $n i32) (local $c i32) (local $p i32)
  (local $d0 v128) (local $d1 v128) (local $d2 v128) (local $d3 v128) (local $d4 v128) (local $d5 v128)
  (local $e v128) (local $f v128) (local $g v128) (local $h v128)
  (local.set $n (i32.const @{tiles}))
  (loop $tile
    (local.set $p (local.get $x))
    (local.set $c (i32.const @{groups}))
    (loop $group
;;@ for j in 0..6
;;@ for i in 0..6
        (local.set $d@{i} (v128.load8x8_s offset=@{i * row_step + j * in_step} (local.get $p)))
;;@ end
;;@ use line to=t at=@{16 * j} step=96
;;@ end
;;@ for i in 0..6
;;@ for j in 0..6
        (local.set $d@{j} (v128.load offset=@{96 * i + 16 * j} (local.get $t)))
;;@ end
;;@ use line to=v at=@{6 * i * tiles * col_step} step=@{tiles * col_step}
;;@ end
      (local.set $p (i32.add (local.get $p) (i32.const 8)))
      (local.set $v (i32.add (local.get $v) (i32.const 16)))
      (br_if $group (local.tee $c (i32.sub (local.get $c) (i32.const 1)))))
    (local.set $x (i32.add (local.get $x) (i32.const @{4 * in_step})))
    (br_if $tile (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
)
