;; A' m A of each tile m of the 16 places at `m`, 4 outputs at a time, and the activation, to 2 x 2 pixels of $y.
;; A': 1 1 1 0, 0 1 -1 -1.
(func $@{name} (param $y i32) (local $m i32) (local $row i32) (local $tile i32) (local $left i32)
  (local $b v128) (local $e v128) (local $t v128) (local $n v128)
;;@ for j in 0..4
  (local $r@{j} v128) (local $s@{j} v128)
;;@ end
  (local.set $m (i32.const @{m}))
  (local.set $row (i32.const @{rows}))
  (loop $rows
    (local.set $tile (i32.const @{across}))
    (loop $tiles
      (local.set $left (i32.const @{2 * panels}))
      (loop $column
;;@ for j in 0..4
        (local.set $b (v128.load offset=@{(4 + j) * m_bytes} (local.get $m)))
        (local.set $e (v128.load offset=@{(8 + j) * m_bytes} (local.get $m)))
        (local.set $r@{j} (f32x4.add (v128.load offset=@{j * m_bytes} (local.get $m))
          (f32x4.add (local.get $b) (local.get $e))))
        (local.set $s@{j} (f32x4.sub (f32x4.sub (local.get $b) (local.get $e))
          (v128.load offset=@{(12 + j) * m_bytes} (local.get $m))))
;;@ end
;;@ use pixels of=r at=0
;;@ use pixels of=s at=@{y_row}
        (local.set $m (i32.add (local.get $m) (i32.const 16)))
        (local.set $y (i32.add (local.get $y) (i32.const 16)))
        (br_if $column (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
      (local.set $y (i32.add (local.get $y) (i32.const @{2 * y_step - 32 * panels})))
      (br_if $tiles (local.tee $tile (i32.sub (local.get $tile) (i32.const 1)))))
    (local.set $y (i32.add (local.get $y) (i32.const @{2 * y_row - 2 * across * y_step})))
    (br_if $rows (local.tee $row (i32.sub (local.get $row) (i32.const 1)))))
)
;;@ define pixels
        (local.set $b (f32x4.add (local.get $@{of}0) (f32x4.add (local.get $@{of}1) (local.get $@{of}2))))
        (local.set $e (f32x4.sub (f32x4.sub (local.get $@{of}1) (local.get $@{of}2)) (local.get $@{of}3)))
;;@ if activation != "linear"
;;@ use @{activation} a=$b
;;@ use @{activation} a=$e
;;@ end
        (v128.store offset=@{at} (local.get $y) (local.get $b))
        (v128.store offset=@{at + y_step} (local.get $y) (local.get $e))
;;@ end
