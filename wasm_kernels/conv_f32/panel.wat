;; A convolution's sums, float32, for a run of output pixels: tiles of `height` pixels x one panel of `columns` columns
;; (a column is 4 outputs), as a product of matrices whose left one is never written down: the values under a pixel's
;; kernel are read where they lie, in segments of `values` values side by side, y_gap and x_gap from one to the next.
;;
;; Packed weights: panels, each a row of bias, then a row for each value under the kernel, in order.
;; The sums begin with the bias and take the values in that order; the activation follows before they are stored.
;; looped = 0: all steps are one stretch of code, and the sums never leave the registers.  looped = 1: a stretch does
;; `y_body` x `x_body` segments of `steps` values, in loops of y_rounds, x_rounds and `rounds`, the last of which leaves
;; `rest` values; between stretches the sums lie in `sums` (no vector lives across a loop's head: dense_f32/gemv.wat).
;;
;; wrap = 0: pixels lie x_step apart, all of them, and $pixels is at least `height`; the last tile lies over the one
;; before it where pixels are left over.  wrap = 1: after each row of pixels x moves on by x_wrap more, and the last
;; pixel stands in for those that a tile has too many.  wrap = 2: the same where tiles come out even with rows.
;; What is computed twice gives the same bits twice.  lanes: values of the last column that are outputs, 0 for all.
;;
;; alone = 1: one more pixel, behind $pixels of them, which tiles would leave over.  Its sums run four side by side,
;; each over every fourth value: alone one would wait for each of its steps.  That is another order, for the mode fast.
;;
;; f32.load and a splat of it are two operations, load32_splat three (it goes through a general register).  Branches
;; that could leave, behind every second row and the last, make Cranelift keep the products in order
;; (dense_f32/gemv.wat); each is a jump that is taken, over the moves of the way out.  A product overwrites one of its
;; factors, so the last one of a row takes the splat's register.  Of the shapes tried, 4 x 2 is among the fastest, and
;; suits most numbers of pixels and outputs (README.md).
;;@ define step
;;@ for c in 0..columns
          (local.set $b@{c} (v128.load offset=@{16 * (columns * (index + 1) + c)} (local.get $wp)))
;;@ end
;;@ for r in 0..height
          (local.set $s (f32x4.splat (f32.load offset=@{at} (local.get $x@{r}))))
;;@ for c in 0..columns
          (local.set $a@{r * columns + c}
;;@ if r < height - 1 and c == columns - 1
            (@{fma} (local.get $s) (local.get $b@{c}) @{into} (local.get $a@{r * columns + c})))
;;@ else
            (@{fma} (local.get $b@{c}) (local.get $s) @{into} (local.get $a@{r * columns + c})))
;;@ end
;;@ end
;;@ if (r < height - 1 and r % 2 == 1) or (r == height - 1 and index < count - 1)
          (br_if $out (i32.eqz (local.get $wp)))
;;@ end
;;@ end
;;@ end
;;@ define stretch
        (block $out
;;@ if looped
;;@ for i in 0..height * columns
          (local.set $a@{i} (v128.load offset=@{sums + 16 * i} (i32.const 0)))
;;@ end
;;@ end
;;@ for i in 0..high
;;@ for j in 0..wide
;;@ for l in 0..long
;;@ use step index=@{(i * wide + j) * long + l} at=@{i * y_gap + j * x_gap + 4 * l} count=@{high * wide * long}
;;@ end
;;@ end
;;@ end
        )
;;@ if looped
;;@ for i in 0..height * columns
        (v128.store offset=@{sums + 16 * i} (i32.const 0) (local.get $a@{i}))
;;@ end
        (local.set $wp (i32.add (local.get $wp) (i32.const @{16 * columns * high * wide * long})))
;;@ use advance by=@{4 * long * (long < values)}
;;@ end
;;@ end
;;@ define advance
;;@ if by
;;@ for r in 0..height
        (local.set $x@{r} (i32.add (local.get $x@{r}) (i32.const @{by})))
;;@ end
;;@ end
;;@ end
;;@ define pixel
        (block $out
;;@ if rounds > 1
;;@ for i in 0..4 * columns
          (local.set $a@{i} (v128.load offset=@{sums + 16 * i} (i32.const 0)))
;;@ end
;;@ end
;;@ for l in 0..steps
          (local.set $s (f32x4.splat (f32.load offset=@{4 * l} (local.get $x0))))
;;@ for c in 0..columns
          (local.set $b@{c} (v128.load offset=@{16 * (columns * (l + 1) + c)} (local.get $wp)))
;;@ end
;;@ for c in 0..columns
          (local.set $a@{l % 4 * columns + c}
            (@{fma} (local.get $b@{c}) (local.get $s) @{into} (local.get $a@{l % 4 * columns + c})))
;;@ end
;;@ if l % 2 == 1 and l < steps - 1
          (br_if $out (i32.eqz (local.get $wp)))
;;@ end
;;@ end
        )
;;@ if rounds > 1
;;@ for i in 0..4 * columns
        (v128.store offset=@{sums + 16 * i} (i32.const 0) (local.get $a@{i}))
;;@ end
        (local.set $wp (i32.add (local.get $wp) (i32.const @{16 * columns * steps})))
;;@ end
;;@ end
(func $@{name} (param $x i32) (param $pixels i32) (param $w i32) (param $panels i32) (param $y i32)
  (local $wp i32) (local $xp i32) (local $yp i32) (local $end i32) (local $left i32) (local $column i32)
  (local $cy i32) (local $cx i32) (local $cl i32)
  (local $s v128) (local $t v128) (local $n v128)
;;@ for r in 0..height
  (local $x@{r} i32) (local $y@{r} i32)
;;@ end
;;@ for c in 0..columns
  (local $b@{c} v128)
;;@ end
;;@ for i in 0..4 * columns
  (local $a@{i} v128)
;;@ end
  (loop $panel
    (local.set $xp (local.get $x))
    (local.set $yp (local.get $y))
;;@ if wrap
    (local.set $left (local.get $pixels))
    (local.set $column (i32.const @{width}))
;;@ else
    (local.set $end (i32.add (local.get $y)
      (i32.mul (i32.sub (local.get $pixels) (i32.const @{height})) (i32.const @{y_step}))))
;;@ end
    (loop $tile
      (local.set $wp (local.get $w))
;;@ if wrap == 1
;;@ for r in 0..height
      (local.set $x@{r} (local.get $xp))
      (local.set $y@{r} (local.get $yp))
      (if (i32.gt_u (local.get $left) (i32.const 1)) (then
        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
        (local.set $yp (i32.add (local.get $yp) (i32.const @{y_step})))
        (local.set $xp (i32.add (local.get $xp) (i32.const @{x_step})))
        (if (i32.eqz (local.tee $column (i32.sub (local.get $column) (i32.const 1)))) (then
          (local.set $column (i32.const @{width}))
          (local.set $xp (i32.add (local.get $xp) (i32.const @{x_wrap}))))))
      (else (local.set $left (i32.const 0))))
;;@ end
;;@ else
;;@ for r in 0..height
      (local.set $x@{r} (i32.add (local.get $xp) (i32.const @{r * x_step})))
;;@ end
;;@ end
;;@ for c in 0..columns
      (local.set $b@{c} (v128.load offset=@{16 * c} (local.get $w)))
;;@ for r in 0..height
;;@ if looped
      (v128.store offset=@{sums + 16 * (r * columns + c)} (i32.const 0) (local.get $b@{c}))
;;@ else
      (local.set $a@{r * columns + c} (local.get $b@{c}))
;;@ end
;;@ end
;;@ end
;;@ if looped
      (local.set $cy (i32.const @{y_rounds}))
;;@ if y_rounds > 1
      (loop $ky
;;@ else
      (block $ky
;;@ end
;;@ if x_rounds > 1
        (local.set $cx (i32.const @{x_rounds}))
        (loop $kx
;;@ else
        (block $kx
;;@ end
;;@ if rounds > 1
          (local.set $cl (i32.const @{rounds}))
          (loop $k
;;@ use stretch high=@{y_body} wide=@{x_body} long=@{steps}
            (br_if $k (local.tee $cl (i32.sub (local.get $cl) (i32.const 1)))))
;;@ else
;;@ use stretch high=@{y_body} wide=@{x_body} long=@{steps}
;;@ end
;;@ if rest
;;@ use stretch high=1 wide=1 long=@{rest}
;;@ end
;;@ if x_rounds > 1
;;@ use advance by=@{x_gap - 4 * values * (steps < values)}
          (br_if $kx (local.tee $cx (i32.sub (local.get $cx) (i32.const 1))))
;;@ end
        )
;;@ if y_rounds > 1
;;@ if x_rounds > 1
;;@ use advance by=@{y_gap - x_rounds * x_gap}
;;@ else
;;@ use advance by=@{y_gap - 4 * values * (steps < values)}
;;@ end
        (br_if $ky (local.tee $cy (i32.sub (local.get $cy) (i32.const 1))))
;;@ end
      )
;;@ for i in 0..height * columns
      (local.set $a@{i} (v128.load offset=@{sums + 16 * i} (i32.const 0)))
;;@ end
;;@ else
;;@ use stretch high=@{y_body} wide=@{x_body} long=@{steps}
;;@ end
;;@ for r in 0..height
;;@ for c in 0..columns
;;@ if activation != "linear"
;;@ use @{activation} a=$a@{r * columns + c}
;;@ end
;;@ if wrap == 1
;;@ use conv_store value=$a@{r * columns + c} address=$y@{r} at=@{16 * c} count=@{lanes * (c == columns - 1)}
;;@ else
;;@ use conv_store value=$a@{r * columns + c} address=$yp at=@{16 * c + r * y_step} count=@{lanes * (c == columns - 1)}
;;@ end
;;@ end
;;@ end
;;@ if wrap == 1
      (br_if $tile (local.get $left)))
;;@ end
;;@ if wrap == 2
      (local.set $yp (i32.add (local.get $yp) (i32.const @{height * y_step})))
      (local.set $xp (i32.add (local.get $xp) (i32.const @{height * x_step})))
      (if (i32.eqz (local.tee $column (i32.sub (local.get $column) (i32.const @{height})))) (then
        (local.set $column (i32.const @{width}))
        (local.set $xp (i32.add (local.get $xp) (i32.const @{x_wrap})))))
      (br_if $tile (local.tee $left (i32.sub (local.get $left) (i32.const @{height})))))
;;@ end
;;@ if wrap == 0
      (if (i32.lt_u (local.get $yp) (local.get $end)) (then
        (local.set $xp (i32.add (local.get $xp) (i32.const @{height * x_step})))
        (local.set $yp (i32.add (local.get $yp) (i32.const @{height * y_step})))
        (if (i32.gt_u (local.get $yp) (local.get $end)) (then
          (local.set $xp (i32.sub (local.get $xp) (i32.const @{back * x_step})))
          (local.set $yp (local.get $end))))
        (br $tile))))
;;@ end
;;@ if alone
    (local.set $wp (local.get $w))
    (local.set $x0 (i32.add (local.get $x) (i32.mul (local.get $pixels) (i32.const @{x_step}))))
    (local.set $yp (i32.add (local.get $y) (i32.mul (local.get $pixels) (i32.const @{y_step}))))
;;@ for i in 0..4 * columns
;;@ if i < columns
    (local.set $a@{i} (v128.load offset=@{16 * i} (local.get $w)))
;;@ else
    (local.set $a@{i} @[0])
;;@ end
;;@ if rounds > 1
    (v128.store offset=@{sums + 16 * i} (i32.const 0) (local.get $a@{i}))
;;@ end
;;@ end
;;@ if rounds > 1
    (local.set $cl (i32.const @{rounds}))
    (loop $k
;;@ use pixel
      (local.set $x0 (i32.add (local.get $x0) (i32.const @{4 * steps})))
      (br_if $k (local.tee $cl (i32.sub (local.get $cl) (i32.const 1)))))
;;@ for i in 0..4 * columns
    (local.set $a@{i} (v128.load offset=@{sums + 16 * i} (i32.const 0)))
;;@ end
;;@ else
;;@ use pixel
;;@ end
;;@ for c in 0..columns
    (local.set $a@{c} (f32x4.add (f32x4.add (local.get $a@{c}) (local.get $a@{columns + c}))
      (f32x4.add (local.get $a@{2 * columns + c}) (local.get $a@{3 * columns + c}))))
;;@ if activation != "linear"
;;@ use @{activation} a=$a@{c}
;;@ end
;;@ use conv_store value=$a@{c} address=$yp at=@{16 * c} count=@{lanes * (c == columns - 1)}
;;@ end
;;@ end
    (local.set $w (i32.add (local.get $w) (i32.const @{16 * columns * (inputs + 1)})))
    (local.set $y (i32.add (local.get $y) (i32.const @{16 * columns})))
    (br_if $panel (local.tee $panels (i32.sub (local.get $panels) (i32.const 1)))))
)
