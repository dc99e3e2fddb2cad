;; Rows of an image with zeros around them, as many as a stretch of output rows reads, into scratch.
;; $row: the first row, counted from the image's own first one; it may lie above the image, and others below it.
;; repeat = 1: rows are copied.  More: each value is written that many times, for a depthwise convolution that makes
;; more channels than it reads.
(func $@{name} (param $x i32) (param $row i32) (param $rows i32)
  (local $y i32) (local $p i32) (local $end i32) (local $copies i32)
  (local.set $y (i32.const @{scratch}))
  (local.set $p (i32.add (local.get $x) (i32.mul (local.get $row) (i32.const @{row_bytes}))))
  (loop $next
    (if (i32.lt_u (local.get $row) (i32.const @{height})) (then
;;@ if left
      (memory.fill (local.get $y) (i32.const 0) (i32.const @{left}))
;;@ end
;;@ if repeat == 1
      (memory.copy (i32.add (local.get $y) (i32.const @{left})) (local.get $p) (i32.const @{row_bytes}))
;;@ else
      (local.set $end (i32.add (local.get $p) (i32.const @{row_bytes})))
      (local.set $x (i32.add (local.get $y) (i32.const @{left})))
      (loop $value
        (local.set $copies (i32.const @{repeat}))
        (loop $copy
          (f32.store (local.get $x) (f32.load (local.get $p)))
          (local.set $x (i32.add (local.get $x) (i32.const 4)))
          (br_if $copy (local.tee $copies (i32.sub (local.get $copies) (i32.const 1)))))
        (br_if $value (i32.lt_u (local.tee $p (i32.add (local.get $p) (i32.const 4))) (local.get $end))))
      (local.set $p (i32.sub (local.get $p) (i32.const @{row_bytes})))
;;@ end
;;@ if right
      (memory.fill (i32.add (local.get $y) (i32.const @{left + repeat * row_bytes})) (i32.const 0) (i32.const @{right}))
;;@ end
    ) (else
      (memory.fill (local.get $y) (i32.const 0) (i32.const @{left + repeat * row_bytes + right}))))
    (local.set $y (i32.add (local.get $y) (i32.const @{left + repeat * row_bytes + right})))
    (local.set $p (i32.add (local.get $p) (i32.const @{row_bytes})))
    (local.set $row (i32.add (local.get $row) (i32.const 1)))
    (br_if $next (local.tee $rows (i32.sub (local.get $rows) (i32.const 1)))))
)
