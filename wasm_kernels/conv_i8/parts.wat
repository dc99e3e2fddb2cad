;; One row's sums of a depthwise convolution whose kernel is too large for one piece of code: part by part, rows of the
;; kernel (`kh`, `row_step` bytes apart) and in each `parts` pieces (`part_step` bytes apart).  The first begins with the bias.
(func $@{name} (param $x i32) (param $w i32) (param $bias i32) (param $y i32) (param $pixels i32)
  (local $i i32) (local $j i32) (local $xp i32)
  (local.set $i (i32.const @{kh}))
  (loop $row
    (local.set $xp (local.get $x))
    (local.set $j (i32.const @{parts}))
    (loop $part
      (if (i32.eq (i32.add (local.get $i) (local.get $j)) (i32.const @{kh + parts})) (then
        (call $@{sums} (local.get $xp) (local.get $w) (local.get $bias) (local.get $y) (local.get $pixels)
          (i32.const 0)))
      (else
        (call $@{sums_last} (local.get $xp) (local.get $w) (local.get $bias) (local.get $y) (local.get $pixels)
          (i32.const 0))))
      (local.set $w (i32.add (local.get $w) (i32.const @{part_bytes})))
      (local.set $xp (i32.add (local.get $xp) (i32.const @{part_step})))
      (br_if $part (local.tee $j (i32.sub (local.get $j) (i32.const 1)))))
    (local.set $x (i32.add (local.get $x) (i32.const @{row_step})))
    (br_if $row (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
)
