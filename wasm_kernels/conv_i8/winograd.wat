;; A whole 3 x 3 convolution in 8 bits by transforms of its tiles (tiles_in.wat): a quarter of the products, exact.
;; `deep` rows are put at $s with their margins, then `tiles` tiles of 4 x 4 outputs at a time are transformed (to v_at), multiplied (to
;; m_at, one panel of outputs after the other), transformed back (to sums_at) and rounded.  The rest as in layer.wat.
;; down, across: tiles, and groups of tiles; panels of 4 vectors of outputs.
;; stride 2 (tiles_in_strided.wat): the sums are those of three kinds of places, at half_at, one_at the second and third.
(func $@{name} (param $x i32) (param $w i32) (param $s i32) (param $y i32)
  (local $i i32) (local $j i32) (local $r i32) (local $n i32) (local $p i32) (local $wp i32) (local $at i32)
  (loop $row
    (call $@{margins} (local.get $x) (i32.sub (i32.mul (local.get $i) (i32.const @{4 * stride})) (i32.const @{top}))
      (i32.const @{deep}) (local.get $s))
    (local.set $j (i32.const 0))
    (loop $chunk
      (call $@{transform} (i32.add (local.get $s) (i32.mul (local.get $j) (i32.const @{4 * stride * tiles * inputs})))
        (i32.add (local.get $s) (i32.const @{v_at})) (i32.add (local.get $s) (i32.const @{temporary_at})))
      (local.set $wp (i32.add (local.get $w) (i32.const @{weights_at})))
      (local.set $p (i32.const 0))
      (loop $panel
        (call $@{sums} (i32.add (local.get $s) (i32.const @{v_at})) (local.get $wp) (i32.const 0)
          (i32.add (local.get $s) (i32.const @{m_at})) (i32.const @{tiles}) (i32.const 0))
;;@ if stride == 2
        (call $@{sums_half} (i32.add (local.get $s) (i32.const @{v_at + half_at}))
          (i32.add (local.get $wp) (i32.const @{2048 * inputs})) (i32.const 0)
          (i32.add (local.get $s) (i32.const @{m_at + 1024 * tiles})) (i32.const @{tiles}) (i32.const 0))
        (call $@{sums_one} (i32.add (local.get $s) (i32.const @{v_at + one_at}))
          (i32.add (local.get $wp) (i32.const @{2560 * inputs})) (i32.const 0)
          (i32.add (local.get $s) (i32.const @{m_at + 1536 * tiles})) (i32.const @{tiles}) (i32.const 0))
;;@ end
        (call $@{out} (i32.add (local.get $s) (i32.const @{m_at}))
          (i32.add (i32.add (local.get $w) (i32.const @{bias_at})) (local.get $p))
          (i32.add (i32.add (local.get $s) (i32.const @{sums_at})) (local.get $p))
          (i32.add (local.get $s) (i32.const @{temporary_at})))
        (local.set $wp (i32.add (local.get $wp) (i32.const @{panel_bytes})))
        (br_if $panel (i32.ne (local.tee $p (i32.add (local.get $p) (i32.const 64))) (i32.const @{64 * panels}))))
      (local.set $n (i32.sub (i32.const @{width}) (i32.mul (local.get $j) (i32.const @{4 * tiles}))))
      (local.set $n (select (local.get $n) (i32.const @{4 * tiles}) (i32.lt_u (local.get $n) (i32.const @{4 * tiles}))))
      (local.set $r (i32.mul (local.get $i) (i32.const 4)))
      (local.set $at (i32.add (local.get $s) (i32.const @{sums_at})))
      (local.set $p (i32.add (local.get $y) (i32.mul (i32.const @{outputs})
        (i32.add (i32.mul (local.get $r) (i32.const @{width})) (i32.mul (local.get $j) (i32.const @{4 * tiles}))))))
      (block $done
        (loop $line
          (br_if $done (i32.ge_u (local.get $r) (i32.const @{height})))
          (if (i32.load offset=80 (local.get $w)) (then
            (call $@{any} (local.get $at) (i32.add (local.get $w) (i32.const @{raw_at})) (local.get $w) (local.get $p)
              (local.get $n)))
          (else
            (call $@{quick} (local.get $at) (i32.add (local.get $w) (i32.const @{factors_at})) (local.get $w)
              (local.get $p) (local.get $n) (i32.const 0))))
          (local.set $at (i32.add (local.get $at) (i32.const @{64 * tiles * vectors})))
          (local.set $p (i32.add (local.get $p) (i32.const @{width * outputs})))
          (br_if $line (i32.and (local.tee $r (i32.add (local.get $r) (i32.const 1))) (i32.const 3)))))
      (br_if $chunk (i32.ne (local.tee $j (i32.add (local.get $j) (i32.const 1))) (i32.const @{across}))))
    (br_if $row (i32.ne (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const @{down}))))
)
