;; B' d B of each 4x4 tile d of the padded rows in `scratch`, 2 apart, 4 channels at a time, to the 16 places at `v`.
;; B': 1 0 -1 0, 0 1 1 0, 0 -1 1 0, 0 1 0 -1.  Column by column, so that few values are under way.
(func $@{name} (local $p i32) (local $v i32) (local $row i32) (local $tile i32) (local $left i32)
;;@ for i in 0..4
  (local $d@{i} v128) (local $e@{i} v128)
;;@ end
;;@ define pair
;;@ for i in 0..4
        (local.set $d@{i} (f32x4.@{what}
          (v128.load offset=@{i * row_bytes + first * x_gap} (local.get $p))
          (v128.load offset=@{i * row_bytes + second * x_gap} (local.get $p))))
;;@ end
        (v128.store offset=@{j * v_bytes} (local.get $v) (f32x4.sub (local.get $d0) (local.get $d2)))
        (v128.store offset=@{(4 + j) * v_bytes} (local.get $v) (f32x4.add (local.get $d1) (local.get $d2)))
        (v128.store offset=@{(8 + j) * v_bytes} (local.get $v) (f32x4.sub (local.get $d2) (local.get $d1)))
        (v128.store offset=@{(12 + j) * v_bytes} (local.get $v) (f32x4.sub (local.get $d1) (local.get $d3)))
;;@ end
  (local.set $p (i32.const @{scratch}))
  (local.set $v (i32.const @{v}))
  (local.set $row (i32.const @{rows}))
  (loop $rows
    (local.set $tile (i32.const @{across}))
    (loop $tiles
      (local.set $left (i32.const @{channels // 4}))
      (loop $channel
;;@ use pair j=0 what=sub first=0 second=2
;;@ use pair j=1 what=add first=1 second=2
;;@ use pair j=2 what=sub first=2 second=1
;;@ use pair j=3 what=sub first=1 second=3
        (local.set $p (i32.add (local.get $p) (i32.const 16)))
        (local.set $v (i32.add (local.get $v) (i32.const 16)))
        (br_if $channel (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
      (local.set $p (i32.add (local.get $p) (i32.const @{x_gap})))
      (br_if $tiles (local.tee $tile (i32.sub (local.get $tile) (i32.const 1)))))
    (local.set $p (i32.add (local.get $p) (i32.const @{2 * row_bytes - 2 * across * x_gap})))
    (br_if $rows (local.tee $row (i32.sub (local.get $row) (i32.const 1)))))
)
