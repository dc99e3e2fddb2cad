;; What kept weights lack (compile/held.py), product by product, for `places` places:  y[n] += delta * x[k].
;; $x: i8, `x_step` bytes a place; $y: `y_step` bytes a place.  $e to $end: entries of 8 bytes: u16 k, u16 n, i32 delta.
;; An entry is read once for all places, of which `tile` are written out.
;;@ define place
        (i32.store offset=@{r * y_step} (local.get $yp) (i32.add (i32.load offset=@{r * y_step} (local.get $yp))
          (i32.mul (local.get $delta) (i32.load8_s offset=@{r * x_step} (local.get $xp)))))
;;@ end
(func $@{name} (param $x i32) (param $e i32) (param $end i32) (param $y i32) (param $places i32)
  (local $xp i32) (local $yp i32) (local $n i32) (local $delta i32)
  (if (i32.lt_u (local.get $e) (local.get $end)) (then
    (loop $entry
      (local.set $xp (i32.add (local.get $x) (i32.load16_u (local.get $e))))
      (local.set $yp (i32.add (local.get $y) (i32.shl (i32.load16_u offset=2 (local.get $e)) (i32.const 2))))
      (local.set $delta (i32.load offset=4 (local.get $e)))
      (local.set $n (local.get $places))
      (if (i32.ge_u (local.get $n) (i32.const @{tile})) (then
        (loop $tile
;;@ for r in 0..tile
;;@ use place
;;@ end
          (local.set $xp (i32.add (local.get $xp) (i32.const @{tile * x_step})))
          (local.set $yp (i32.add (local.get $yp) (i32.const @{tile * y_step})))
          (br_if $tile (i32.ge_u (local.tee $n (i32.sub (local.get $n) (i32.const @{tile}))) (i32.const @{tile}))))))
      (if (local.get $n) (then
        (loop $one
;;@ use place r=0
          (local.set $xp (i32.add (local.get $xp) (i32.const @{x_step})))
          (local.set $yp (i32.add (local.get $yp) (i32.const @{y_step})))
          (br_if $one (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))))
      (br_if $entry (i32.lt_u (local.tee $e (i32.add (local.get $e) (i32.const 8))) (local.get $end))))))
)
