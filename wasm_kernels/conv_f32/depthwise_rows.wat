;; A depthwise convolution of a whole image, float32, for small kernels: output rows one by one, in each row one column
;; (4 channels) after the other, in each column tiles of `pixels` pixels side by side, which share the values they read.
;;
;; Nothing is copied.  Rows above and below the image are read from zeros in `zeros`; places of the kernel to the left
;; and right of it are left out: `left` in the first tile, `right` in the last, which lies over the one before it
;; where pixels are left over.  tiles: how many a row has; skip: pixels before the last.
;; Weights and order of sums: those of depthwise.wat.
;; fence: how many values are read between two branches that could leave (dense_f32/gemv.wat says what those are for).
;;@ define tile
          (block $out
            (local.set $b0 (v128.load (local.get $wp)))
;;@ for t in 0..pixels
            (local.set $a@{t} (local.get $b0))
;;@ end
;;@ for i in 0..high
;;@ for j in 0..wide
            (local.set $b@{j} (v128.load offset=@{16 * (i * wide + j + 1)} (local.get $wp)))
;;@ end
;;@ for q in first..end
            (local.set $v (v128.load offset=@{at + (q - first) * x_gap} (local.get $p@{i})))
;;@ for j in 0..wide
;;@ if (q - j) % stride == 0 and q >= j and (q - j) // stride < pixels
            (local.set $a@{(q - j) // stride}
              (@{fma} (local.get $v) (local.get $b@{j}) @{into} (local.get $a@{(q - j) // stride})))
;;@ end
;;@ end
;;@ if ((q - first) % fence == fence - 1 or q == end - 1) and (q < end - 1 or i < high - 1)
            (br_if $out (i32.eqz (local.get $wp)))
;;@ end
;;@ end
;;@ end
          )
;;@ for t in 0..pixels
;;@ if activation != "linear"
;;@ use @{activation} a=$a@{t}
;;@ end
;;@ use conv_store value=$a@{t} address=$yp at=@{y_at + t * y_step} count=@{lanes}
;;@ end
;;@ end
;;@ define row
;;@ if tiles == 1
;;@ use tile first=@{left} end=@{span - right} at=0 y_at=0
;;@ else
;;@ use tile first=@{left} end=@{span} at=0 y_at=0
;;@ if tiles > 2
          (local.set $count (i32.const @{tiles - 2}))
          (loop $middle
;;@ use tile first=0 end=@{span} at=@{(pixels * stride - left) * x_gap} y_at=@{pixels * y_step}
;;@ for i in 0..high
            (local.set $p@{i} (i32.add (local.get $p@{i}) (i32.const @{pixels * stride * x_gap})))
;;@ end
            (local.set $yp (i32.add (local.get $yp) (i32.const @{pixels * y_step})))
            (br_if $middle (local.tee $count (i32.sub (local.get $count) (i32.const 1)))))
;;@ for i in 0..high
          (local.set $p@{i} (i32.sub (local.get $p@{i}) (i32.const @{(tiles - 2) * pixels * stride * x_gap})))
;;@ end
          (local.set $yp (i32.sub (local.get $yp) (i32.const @{(tiles - 2) * pixels * y_step})))
;;@ end
;;@ use tile first=0 end=@{span - right} at=@{(skip * stride - left) * x_gap} y_at=@{skip * y_step}
;;@ end
;;@ end
(func $@{name} (param $x i32) (param $w i32) (param $y i32)
  (local $row i32) (local $wp i32) (local $yp i32) (local $columns i32) (local $count i32)
  (local $v v128) (local $t v128) (local $n v128)
;;@ for i in 0..high
  (local $p@{i} i32)
;;@ end
;;@ for j in 0..wide
  (local $b@{j} v128)
;;@ end
;;@ for t in 0..pixels
  (local $a@{t} v128)
;;@ end
;;@ if zeros
  (memory.fill (i32.const @{zeros}) (i32.const 0) (i32.const @{row_bytes}))
;;@ end
  (loop $rows
;;@ for i in 0..high
    (local.set $count (i32.sub (i32.add (i32.mul (local.get $row) (i32.const @{y_stride})) (i32.const @{i * gap}))
      (i32.const @{top})))
    (local.set $p@{i} (i32.add (local.get $x) (i32.mul (local.get $count) (i32.const @{row_bytes}))))
;;@ if zeros
    (if (i32.ge_u (local.get $count) (i32.const @{height})) (then (local.set $p@{i} (i32.const @{zeros}))))
;;@ end
;;@ end
    (local.set $wp (local.get $w))
    (local.set $yp (local.get $y))
;;@ if columns
    (local.set $columns (i32.const @{columns}))
    (loop $column
;;@ use row lanes=0
;;@ for i in 0..high
      (local.set $p@{i} (i32.add (local.get $p@{i}) (i32.const 16)))
;;@ end
      (local.set $yp (i32.add (local.get $yp) (i32.const 16)))
      (local.set $wp (i32.add (local.get $wp) (i32.const @{16 * (high * wide + 1)})))
      (br_if $column (local.tee $columns (i32.sub (local.get $columns) (i32.const 1)))))
;;@ end
;;@ if last
;;@ use row lanes=@{last}
;;@ end
    (local.set $y (i32.add (local.get $y) (i32.const @{width * y_step})))
    (br_if $rows (i32.lt_u (local.tee $row (i32.add (local.get $row) (i32.const 1))) (i32.const @{rows}))))
)
