;; Tiles of 9 x 9 places of rows with margins (i8) -> their transforms for a 3 x 3 kernel that goes two places a step, 4 x 4
;; outputs a tile:  in i16, exact.
;; Along a line the even places meet the outer two taps, F(4, 2) with the points 0, 1, -1, infinity and 2; the odd ones
;; meet the middle tap, which is one product for each output, put so that it adds to the first four of these points.  So
;; of 25 places 16 sum up products of four kinds of places (even and odd rows, even and odd columns), 8 of two, 1 of one
;; (pack_winograd.py): 81 products where 144 were.  |v| <= 36 * 128.
;; $x, row_step, col_step, tiles, groups, $t (1296 bytes): as in tiles_in.wat, 8 places on lies the next tile.  $v: place
;; by place of the 16 all tiles, four kinds of channels side by side, then the same of the 8, of the 1, at half_at, one_at.
;;@ define even
        (local.set $e (i16x8.sub (local.get $d6) (local.get $d2)))
        (local.set $f (i16x8.sub (local.get $d4) (local.get $d6)))
        (local.set $g (i16x8.sub (local.get $d0) (local.get $d4)))
        (local.set $h (i16x8.sub (local.get $d4) (local.get $d2)))
        (local.set $i (i16x8.sub (local.get $d8) (local.get $d4)))
        (v128.store offset=@{at} (local.get $@{to}) (i16x8.add (i16x8.add (local.get $g) (local.get $g)) (local.get $e)))
        (v128.store offset=@{at + step} (local.get $@{to})
          (i16x8.add (i16x8.add (local.get $d2) (local.get $d2)) (local.get $f)))
        (v128.store offset=@{at + 2 * step} (local.get $@{to})
          (i16x8.add (i16x8.add (local.get $h) (local.get $h)) (local.get $f)))
        (v128.store offset=@{at + 3 * step} (local.get $@{to})
          (i16x8.sub (local.get $i) (i16x8.add (local.get $e) (local.get $e))))
        (v128.store offset=@{last} (local.get $@{to_last}) (local.get $e))
;;@ end
;;@ define odd
        (v128.store offset=@{at} (local.get $@{to}) (i16x8.sub (local.get $d1) (local.get $d5)))
        (v128.store offset=@{at + step} (local.get $@{to}) (i16x8.add (local.get $d3) (local.get $d5)))
        (v128.store offset=@{at + 2 * step} (local.get $@{to}) (i16x8.sub (local.get $d5) (local.get $d3)))
        (v128.store offset=@{at + 3 * step} (local.get $@{to}) (i16x8.sub (local.get $d7) (local.get $d3)))
;;@ end
;;@ define back
;;@ for j in 0..9
        (local.set $d@{j} (v128.load offset=@{144 * line + 16 * j} (local.get $t)))
;;@ end
;;@ end
(func $@{name} (param $x i32) (param $v i32) (param $t i32) (local $n i32) (local $c i32) (local $p i32)
  (local $half i32) (local $one i32)
;;@ for i in 0..9
  (local $d@{i} v128)
;;@ end
  (local $e v128) (local $f v128) (local $g v128) (local $h v128) (local $i v128)
  (local.set $half (i32.add (local.get $v) (i32.const @{half_at})))
  (local.set $one (i32.add (local.get $v) (i32.const @{one_at})))
  (local.set $n (i32.const @{tiles}))
  (loop $tile
    (local.set $p (local.get $x))
    (local.set $c (i32.const @{groups}))
    (loop $group
;;@ for j in 0..9
;;@ for i in 0..9
        (local.set $d@{i} (v128.load8x8_s offset=@{i * row_step + j * in_step} (local.get $p)))
;;@ end
;;@ use even to=t to_last=t at=@{16 * j} step=144 last=@{16 * j + 4 * 144}
;;@ use odd to=t at=@{16 * j + 5 * 144} step=144
;;@ end
;;@ for i in 0..4
;;@ use back line=@{i}
;;@ use even to=v to_last=half at=@{16 * i * tiles * col_step} step=@{4 * tiles * col_step} last=@{2 * (4 + i) * tiles * col_step}
;;@ use odd to=v at=@{16 * i * tiles * col_step + col_step} step=@{4 * tiles * col_step}
;;@ use back line=@{5 + i}
;;@ use even to=v to_last=half at=@{16 * i * tiles * col_step + 2 * col_step} step=@{4 * tiles * col_step} last=@{2 * (4 + i) * tiles * col_step + col_step}
;;@ use odd to=v at=@{16 * i * tiles * col_step + 3 * col_step} step=@{4 * tiles * col_step}
;;@ end
;;@ use back line=4
;;@ use even to=half to_last=one at=0 step=@{2 * tiles * col_step} last=0
;;@ use odd to=half at=@{col_step} step=@{2 * tiles * col_step}
      (local.set $p (i32.add (local.get $p) (i32.const 8)))
      (local.set $v (i32.add (local.get $v) (i32.const 16)))
      (local.set $half (i32.add (local.get $half) (i32.const 16)))
      (local.set $one (i32.add (local.get $one) (i32.const 16)))
      (br_if $group (local.tee $c (i32.sub (local.get $c) (i32.const 1)))))
    (local.set $x (i32.add (local.get $x) (i32.const @{8 * in_step})))
    (local.set $v (i32.add (local.get $v) (i32.const @{3 * col_step})))
    (local.set $half (i32.add (local.get $half) (i32.const @{col_step})))
    (br_if $tile (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
)
