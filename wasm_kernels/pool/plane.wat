;; A pooling over an image: for each place of what is written the part of its window that lies inside the image.
;; Whole windows go to $@{whole} ("" if there is none), others to $@{any}, which is told its rows and columns.
;; height, width: of what is read; pixel: bytes of one place; rows, columns: of what is written.
(func $@{name} (param $x i32) (param $y i32) (local $i i32) (local $j i32) (local $top i32) (local $left i32)
  (local $r i32) (local $c i32) (local $rows i32) (local $cols i32)
  (local.set $i (i32.const @{rows}))
  (local.set $top (i32.const @{0 - pad_top}))
  (loop $down
    (local.set $r (select (local.get $top) (i32.const 0) (i32.gt_s (local.get $top) (i32.const 0))))
    (local.set $rows (i32.add (local.get $top) (i32.const @{kernel_h})))
    (local.set $rows (i32.sub (select (local.get $rows) (i32.const @{height})
      (i32.lt_s (local.get $rows) (i32.const @{height}))) (local.get $r)))
    (local.set $j (i32.const @{columns}))
    (local.set $left (i32.const @{0 - pad_left}))
    (loop $across
      (local.set $c (select (local.get $left) (i32.const 0) (i32.gt_s (local.get $left) (i32.const 0))))
      (local.set $cols (i32.add (local.get $left) (i32.const @{kernel_w})))
      (local.set $cols (i32.sub (select (local.get $cols) (i32.const @{width})
        (i32.lt_s (local.get $cols) (i32.const @{width}))) (local.get $c)))
      (local.set $c (i32.add (local.get $x) (i32.mul (i32.const @{pixel})
        (i32.add (local.get $c) (i32.mul (local.get $r) (i32.const @{width}))))))
;;@ if whole
      (if (i32.and (i32.eq (local.get $rows) (i32.const @{kernel_h})) (i32.eq (local.get $cols) (i32.const @{kernel_w})))
        (then (call $@{whole} (local.get $c) (local.get $y)))
        (else (call $@{any} (local.get $c) (local.get $rows) (local.get $cols) (local.get $y))))
;;@ else
      (call $@{any} (local.get $c) (local.get $rows) (local.get $cols) (local.get $y))
;;@ end
      (local.set $y (i32.add (local.get $y) (i32.const @{pixel})))
      (local.set $left (i32.add (local.get $left) (i32.const @{stride_w})))
      (br_if $across (local.tee $j (i32.sub (local.get $j) (i32.const 1)))))
    (local.set $top (i32.add (local.get $top) (i32.const @{stride_h})))
    (br_if $down (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
)
