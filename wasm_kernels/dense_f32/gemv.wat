;; A dense layer's sums, float32, for one row and `width` adjacent columns:  y = bias + x @ weights.
;;
;; A column is 4 outputs. Packed weights are panels of 4 columns (a narrower one at the end): a row of bias, then a row
;; of weights for each input. `first`: where in its panel the first column lies; $w0, $w1, ... the panels that the
;; columns lie in, one behind the other; `last`: columns of the last of them, 4 unless it is the narrow one.
;; Columns side by side keep enough sums under way to hide the latency of a multiply-add.
;; Order of summation, here, in gemm.wat and in small.wat. The mode deterministic: the bias, then k = 0, 1, ..., one by
;; one. The mode fast (`fresh`): each round sums its own k from 0 on and adds that to y, which begins with the bias. So
;; no round waits for the one before.
;;
;; A value of x comes to all lanes by one shuffle of a vector of 4 (load32_splat becomes three operations), so rounds are
;; multiples of 4, and up to 3 values behind the row are read, and not used.
;; fold (weights that have to be streamed): so many rounds are one body, between which y stays in registers; rounds are
;; short then, so that several of them are under way at once, for 4 columns alone would wait for each step's sums.
;; unroll: steps of k in the main loop's body, which does $k_main bytes of x (a multiple); tail: in that of the rest.
;; Three habits of Cranelift shape the loops:
;; - It sinks a block's arithmetic below all of its loads, which would spill the sums.  So a branch that could leave
;;   follows each step, with the sums live behind it (exit-unroll).  In the main loop it never does leave: $w0 is not 0.
;; - A loop's head holds the check of the epoch, a call on its far side, and a call keeps no vector register.  So no
;;   sum lives across the head: each round leaves them in y.
;; - On x86-64 a sum changes between two registers from step to step, so 16 registers hold 7 sums and one value of x.
;;@ define round
      (block $out
;;@ for c in 0..width
        (local.set $a@{c}
;;@ if fresh
          @[0]
;;@ else
          (v128.load offset=@{16 * c} (local.get $y))
;;@ end
        )
;;@ end
;;@ for u in 0..steps
;;@ if u % 4 == 0
        (local.set $v (v128.load offset=@{4 * u} (local.get $x)))
;;@ end
        (local.set $s (i8x16.shuffle
;;@ for i in 0..16
          @{4 * (u % 4) + i % 4}
;;@ end
          (local.get $v) (local.get $v)))
;;@ for c in 0..width
        (local.set $b@{c} (v128.load
          offset=@{(u + 1) * (64 - 16 * (4 - last) * ((first + c) // 4 == panels - 1)) + 16 * ((first + c) % 4)}
          (local.get $w@{(first + c) // 4})))
;;@ end
;;@ for c in 0..width
        (local.set $a@{c} (@{fma} (local.get $b@{c}) (local.get $s) @{into} (local.get $a@{c})))
;;@ end
;;@ if u < steps - 1
;;@ if main
        (br_if $out (i32.eqz (local.get $w0)))
;;@ else
        (br_if $out (i32.eq (i32.add (local.get $x) (i32.const @{4 * u + 4})) (local.get $xe)))
;;@ end
;;@ end
;;@ end
      )
;;@ for c in 0..width
      (v128.store offset=@{16 * c} (local.get $y)
;;@ if fresh
        (f32x4.add (v128.load offset=@{16 * c} (local.get $y)) (local.get $a@{c}))
;;@ else
        (local.get $a@{c})
;;@ end
      )
;;@ end
;;@ for j in 0..panels
      (local.set $w@{j} (i32.add (local.get $w@{j}) (i32.const @{(64 - 16 * (4 - last) * (j == panels - 1)) * steps})))
;;@ end
      (local.set $x (i32.add (local.get $x) (i32.const @{4 * steps})))
;;@ end
;;@ define folded
      (block $out
;;@ for c in 0..width
        (local.set $f@{c} (v128.load offset=@{16 * c} (local.get $y)))
;;@ end
;;@ for g in 0..fold
;;@ for c in 0..width
        (local.set $a@{c} @[0])
;;@ end
;;@ for u in 0..unroll
;;@ if u % 4 == 0
        (local.set $v (v128.load offset=@{4 * (g * unroll + u)} (local.get $x)))
;;@ end
        (local.set $s (i8x16.shuffle
;;@ for i in 0..16
          @{4 * (u % 4) + i % 4}
;;@ end
          (local.get $v) (local.get $v)))
;;@ for c in 0..width
        (local.set $b@{c} (v128.load offset=@{16 * last * (g * unroll + u + 1) + 16 * (first + c)} (local.get $w0)))
;;@ end
;;@ for c in 0..width
        (local.set $a@{c} (@{fma} (local.get $b@{c}) (local.get $s) @{into} (local.get $a@{c})))
;;@ end
;;@ if u == unroll - 1 and g < fold - 1
;;@ for c in 0..width
        (local.set $f@{c} (f32x4.add (local.get $f@{c}) (local.get $a@{c})))
;;@ end
;;@ end
;;@ if u < unroll - 1 or g < fold - 1
        (br_if $out (i32.eqz (local.get $w0)))
;;@ end
;;@ end
;;@ end
      )
;;@ for c in 0..width
      (v128.store offset=@{16 * c} (local.get $y) (f32x4.add (local.get $f@{c}) (local.get $a@{c})))
;;@ end
      (local.set $w0 (i32.add (local.get $w0) (i32.const @{16 * last * unroll * fold})))
      (local.set $x (i32.add (local.get $x) (i32.const @{4 * unroll * fold})))
;;@ end
(func $@{name} (param $x i32) (param $k_main i32) (param $k_bytes i32)
;;@ for j in 0..panels
  (param $w@{j} i32)
;;@ end
  (param $y i32) (local $xe i32) (local $s v128) (local $v v128)
;;@ for c in 0..width
  (local $a@{c} v128) (local $b@{c} v128)
;;@ end
;;@ if fold > 1 and panels == 1
;;@ for c in 0..width
  (local $f@{c} v128)
;;@ end
;;@ end
;;@ for c in 0..width
  (v128.store offset=@{16 * c} (local.get $y)
    (v128.load offset=@{16 * ((first + c) % 4)} (local.get $w@{(first + c) // 4})))
;;@ end
;;@ if unroll
;;@ if fold > 1 and panels == 1
  (if (i32.ge_u (local.get $k_main) (i32.const @{4 * unroll * fold})) (then
    (local.set $xe (i32.add (local.get $x)
      (i32.sub (local.get $k_main) (i32.rem_u (local.get $k_main) (i32.const @{4 * unroll * fold})))))
    (local.set $k_bytes (i32.sub (local.get $k_bytes) (i32.sub (local.get $xe) (local.get $x))))
    (local.set $k_main (i32.rem_u (local.get $k_main) (i32.const @{4 * unroll * fold})))
    (loop $k
;;@ use folded
      (br_if $k (i32.lt_u (local.get $x) (local.get $xe))))))
;;@ end
  (if (local.get $k_main) (then
    (local.set $xe (i32.add (local.get $x) (local.get $k_main)))
    (loop $k
;;@ use round steps=@{unroll} main=1
      (br_if $k (i32.lt_u (local.get $x) (local.get $xe))))))
;;@ end
  (local.set $xe (i32.add (local.get $x) (i32.sub (local.get $k_bytes) (local.get $k_main))))
  (if (i32.lt_u (local.get $x) (local.get $xe)) (then
    (loop $k
;;@ use round steps=@{tail} main=0
      (br_if $k (i32.lt_u (local.get $x) (local.get $xe))))))
)
