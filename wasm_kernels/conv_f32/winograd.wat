;; A 3x3 convolution of stride 1 of a whole image by 4 x 4 products for each 2 x 2 outputs, instead of 36: F(2x2, 3x3)
;; of Lavin and Gray 2015 (arXiv:1509.09308), section 4.1.  Values and weights are transformed; at each of the 16 places
;; of a tile, products over the channels are a product of matrices (panel.wat); what comes out is transformed back.
;; The float64 definition is met within the same tolerance; but a NaN or an infinity reaches all four outputs of a tile.
;;
;; Weights are transformed in `groups` of `panels` panels, values in `chunks` of `rows` tile rows: once where they are
;; one chunk, else for each group again, which takes little beside the products of a group.
(func $@{name} (param $x i32) (param $w i32) (param $y i32) (local $row i32) (local $at i32) (local $group i32)
  (local $yp i32)
;;@ if chunks == 1
  (call $@{pad} (local.get $x) (i32.const @{0 - top}) (i32.const @{2 * rows + 2}))
  (call $@{before})
;;@ end
  (local.set $group (i32.const @{groups}))
  (loop $groups
    (call $@{weights} (local.get $w) (i32.const @{u}) (i32.const @{panels}))
    (local.set $row (i32.const 0))
    (local.set $yp (local.get $y))
    (loop $chunk
;;@ if chunks > 1
      (call $@{pad} (local.get $x) (i32.sub (local.get $row) (i32.const @{top})) (i32.const @{2 * rows + 2}))
      (call $@{before})
;;@ end
      (local.set $at (i32.const 0))
      (loop $place
        (call $@{gemm}
          (i32.add (i32.const @{v}) (i32.mul (local.get $at) (i32.const @{v_bytes}))) (i32.const @{tiles})
          (i32.add (i32.const @{u}) (i32.mul (local.get $at) (i32.const @{u_bytes}))) (i32.const @{panels})
          (i32.add (i32.const @{m}) (i32.mul (local.get $at) (i32.const @{m_bytes}))))
        (br_if $place (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 1))) (i32.const 16))))
      (call $@{after} (local.get $yp))
      (local.set $yp (i32.add (local.get $yp) (i32.const @{2 * rows * y_row})))
      (local.set $row (i32.add (local.get $row) (i32.const @{2 * rows})))
      (br_if $chunk (i32.lt_u (local.get $row) (i32.const @{2 * rows * chunks}))))
    (local.set $w (i32.add (local.get $w) (i32.const @{panels * w_panel})))
    (local.set $y (i32.add (local.get $y) (i32.const @{32 * panels})))
    (br_if $groups (local.tee $group (i32.sub (local.get $group) (i32.const 1)))))
)
