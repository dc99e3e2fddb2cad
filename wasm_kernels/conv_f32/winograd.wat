;; A 3x3 convolution of stride 1 of a whole image by 4 x 4 products for each 2 x 2 outputs, instead of 36: F(2x2, 3x3)
;; of Lavin and Gray 2015 (arXiv:1509.09308), section 4.1.  Values and weights are transformed; at each of the 16 places
;; of a tile, products over the channels are a product of matrices (panel.wat); what comes out is transformed back.
;; The float64 definition is met within the same tolerance; but a NaN or an infinity reaches all four outputs of a tile.
;;
;; rows: tile rows that go through the scratch at once, `chunks` times; else all do, and the weights come in `groups` of
;; `panels` panels.  Never both are more than one, so nothing is transformed twice.
(func $@{name} (param $x i32) (param $w i32) (param $y i32) (local $row i32) (local $at i32) (local $group i32)
;;@ if groups == 1
  (call $@{weights} (local.get $w) (i32.const @{u}) (i32.const @{panels}))
;;@ end
  (loop $chunk
    (call $@{pad} (local.get $x) (i32.sub (local.get $row) (i32.const @{top})) (i32.const @{2 * rows + 2}))
    (call $@{before})
    (local.set $group (i32.const @{groups}))
    (loop $groups
;;@ if groups > 1
      (call $@{weights} (local.get $w) (i32.const @{u}) (i32.const @{panels}))
;;@ end
      (local.set $at (i32.const 0))
      (loop $place
        (call $@{gemm}
          (i32.add (i32.const @{v}) (i32.mul (local.get $at) (i32.const @{v_bytes}))) (i32.const @{tiles})
          (i32.add (i32.const @{u}) (i32.mul (local.get $at) (i32.const @{u_bytes}))) (i32.const @{panels})
          (i32.add (i32.const @{m}) (i32.mul (local.get $at) (i32.const @{m_bytes}))))
        (br_if $place (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 1))) (i32.const 16))))
      (call $@{after} (local.get $y))
;;@ if groups > 1
      (local.set $w (i32.add (local.get $w) (i32.const @{panels * w_panel})))
      (local.set $y (i32.add (local.get $y) (i32.const @{32 * panels})))
      (br_if $groups (local.tee $group (i32.sub (local.get $group) (i32.const 1))))
;;@ end
    )
;;@ if chunks > 1
    (local.set $y (i32.add (local.get $y) (i32.const @{2 * rows * y_row})))
    (local.set $row (i32.add (local.get $row) (i32.const @{2 * rows})))
    (br_if $chunk (i32.lt_u (local.get $row) (i32.const @{2 * rows * chunks})))
;;@ end
  )
)
