;; What kept weights lack (compile/held.py), product by product, for one place:  y[n] += delta * x[k].
;; $e to $end: entries of 8 bytes: u16 k, u16 n, i32 delta; a multiple of 4 of them.  $turn: 0 where bytes of x count from 0 to 255, 128 where they
;; are signed: (b ^ 128) - 128 is what a byte b stands for as a signed number.
(func $@{name} (param $x i32) (param $e i32) (param $end i32) (param $y i32) (param $turn i32) (local $p i32)
  (if (i32.lt_u (local.get $e) (local.get $end)) (then
    (loop $entry
;;@ for i in 0..4
      (local.set $p (i32.add (local.get $y) (i32.shl (i32.load16_u offset=@{8 * i + 2} (local.get $e)) (i32.const 2))))
      (i32.store (local.get $p) (i32.add (i32.load (local.get $p)) (i32.mul (i32.load offset=@{8 * i + 4} (local.get $e))
        (i32.sub (i32.xor (local.get $turn)
          (i32.load8_u (i32.add (local.get $x) (i32.load16_u offset=@{8 * i} (local.get $e))))) (local.get $turn)))))
;;@ end
      (br_if $entry (i32.lt_u (local.tee $e (i32.add (local.get $e) (i32.const 32))) (local.get $end))))))
)
