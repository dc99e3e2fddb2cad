;; A dense layer's sums, float32, for one row:  y = bias + x @ weights,  panel by panel.
;;
;; A panel is `width` columns, a column 4 outputs; packed as a row of bias, then a row of weights for each input, each
;; `width` vectors.  Columns side by side keep enough sums under way to hide the latency of a multiply-add.
;; Order of summation, here and in gemm.wat: the bias, then k = 0, 1, ..., each by one multiply-add.
;;
;; width: columns of a panel.  unroll: steps of k in the loop's body.
;; Three habits of Cranelift shape the loop:
;; - It sinks a block's arithmetic below all of its loads, which would spill the sums.  So a branch that could leave
;;   follows each step, with the sums live behind it (exit-unroll).
;; - A loop's head holds the check of the epoch, a call on its far side, and a call keeps no vector register.  So no
;;   sum lives across the head: each round loads them from y and stores them there.
;; - On x86-64 a sum changes between two registers from step to step, so 16 registers hold 7 sums and one value of x.
(func $@{name} (param $x i32) (param $k_bytes i32) (param $w i32) (param $panels i32) (param $y i32)
  (local $wp i32) (local $xp i32) (local $xe i32) (local $s v128)
;;@ for c in 0..width
  (local $a@{c} v128) (local $b@{c} v128)
;;@ end
  (local.set $xe (i32.add (local.get $x) (local.get $k_bytes)))
  (loop $panel
;;@ for c in 0..width
    (v128.store offset=@{16 * c} (local.get $y) (v128.load offset=@{16 * c} (local.get $w)))
;;@ end
    (local.set $wp (local.get $w))
    (local.set $xp (local.get $x))
    (loop $k
      (block $out
;;@ for c in 0..width
        (local.set $a@{c} (v128.load offset=@{16 * c} (local.get $y)))
;;@ end
;;@ for u in 0..unroll
;;@ for c in 0..width
        (local.set $b@{c} (v128.load offset=@{16 * ((u + 1) * width + c)} (local.get $wp)))
;;@ end
        (local.set $s (v128.load32_splat offset=@{4 * u} (local.get $xp)))
;;@ for c in 0..width
        (local.set $a@{c} (@{fma} (local.get $b@{c}) (local.get $s) @{into} (local.get $a@{c})))
;;@ end
;;@ if u < unroll - 1
        (br_if $out (i32.eq (i32.add (local.get $xp) (i32.const @{4 * u + 4})) (local.get $xe)))
;;@ end
;;@ end
      )
;;@ for c in 0..width
      (v128.store offset=@{16 * c} (local.get $y) (local.get $a@{c}))
;;@ end
      (local.set $wp (i32.add (local.get $wp) (i32.const @{16 * width * unroll})))
      (local.set $xp (i32.add (local.get $xp) (i32.const @{4 * unroll})))
      (br_if $k (i32.lt_u (local.get $xp) (local.get $xe))))
    (local.set $w (i32.add (local.get $w)
      (i32.mul (i32.add (local.get $k_bytes) (i32.const 4)) (i32.const @{4 * width}))))
    (local.set $y (i32.add (local.get $y) (i32.const @{16 * width})))
    (br_if $panel (local.tee $panels (i32.sub (local.get $panels) (i32.const 1)))))
)
