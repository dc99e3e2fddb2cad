;; places.wat where packing says (pack_places_i8.py) that the weights are bytes whose products may be summed in 16 bits:
;; places are copied to $s as bytes, their sums lie behind at `sums_at`; what the kept weights lack is added at the end.
;;
;; i16x8.relaxed_dot_i8x16_i7x16_s leaves it to the machine whether bit 7 of its second operand is a sign (x86: no): one
;; product asks.  Where it is none, kept weights meet q + 128, with the bias for that, at `turned_at`.
(func $@{name} (param $x i32) (param $w i32) (param $s i32) (param $y i32)
  (local $n i32) (local $left i32) (local $bias i32) (local $turn i32) (local $end i32)
  (local.set $left (i32.const @{places}))
  (local.set $turn (i32.const 128))
  (local.set $bias (i32.const @{turned_at}))
  (if (i32.lt_s (i16x8.extract_lane_s 0 (i16x8.relaxed_dot_i8x16_i7x16_s
      (i8x16.splat (i32.const 1)) (i8x16.splat (i32.const 0x80)))) (i32.const 0)) (then
    (local.set $turn (i32.const 0))
    (local.set $bias (i32.const @{bias_at}))))
  (local.set $end (i32.add (i32.add (local.get $w) (i32.const @{rest_at})) (i32.load offset=@{rest_length} (local.get $w))))
  (loop $chunk
    (local.set $n (select (local.get $left) (i32.const @{rows}) (i32.lt_u (local.get $left) (i32.const @{rows}))))
    (call $@{copy} (local.get $x) (i32.mul (local.get $n) (i32.const @{inputs})) (local.get $s)
      (local.get $turn))
    (call $@{sums} (local.get $s) (i32.add (local.get $w) (i32.const @{weights_at})) (i32.add (local.get $w) (local.get $bias))
      (i32.add (local.get $s) (i32.const @{sums_at})) (local.get $n))
    (call $@{rest} (local.get $x) (i32.add (local.get $w) (i32.const @{rest_at})) (local.get $end)
      (i32.add (local.get $s) (i32.const @{sums_at})) (local.get $n))
    (if (i32.load offset=80 (local.get $w)) (then
      (call $@{any} (i32.add (local.get $s) (i32.const @{sums_at})) (i32.add (local.get $w) (i32.const @{raw_at}))
        (local.get $w) (local.get $y) (local.get $n)))
    (else
      (call $@{quick} (i32.add (local.get $s) (i32.const @{sums_at})) (i32.add (local.get $w) (i32.const @{factors_at}))
        (local.get $w) (local.get $y) (local.get $n) (i32.const 0))))
    (local.set $x (i32.add (local.get $x) (i32.mul (local.get $n) (i32.const @{inputs}))))
    (local.set $y (i32.add (local.get $y) (i32.mul (local.get $n) (i32.const @{outputs}))))
    (br_if $chunk (local.tee $left (i32.sub (local.get $left) (local.get $n)))))
)
