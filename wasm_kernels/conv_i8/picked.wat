;; Rows of every `across`th place of every so many rows of an i8 image -> i16, for a kernel of one place that skips the rest.
;; $top: the first row's number among those that are read; $count rows, `row_step` bytes apart, of `places` places.
(func $@{name} (param $x i32) (param $top i32) (param $count i32) (param $to i32) (local $from i32) (local $end i32)
  (local $v v128)
  (local.set $x (i32.add (local.get $x) (i32.mul (local.get $top) (i32.const @{row_step}))))
  (loop $row
    (local.set $from (local.get $x))
    (local.set $end (i32.add (local.get $to) (i32.const @{2 * places * inputs})))
    (loop $place
;;@ for i in 0..inputs // 16
      (local.set $v (v128.load offset=@{16 * i} (local.get $from)))
      (v128.store offset=@{32 * i} (local.get $to) (i16x8.extend_low_i8x16_s (local.get $v)))
      (v128.store offset=@{32 * i + 16} (local.get $to) (i16x8.extend_high_i8x16_s (local.get $v)))
;;@ end
      (local.set $from (i32.add (local.get $from) (i32.const @{across * inputs})))
      (br_if $place (i32.ne (local.tee $to (i32.add (local.get $to) (i32.const @{2 * inputs}))) (local.get $end))))
    (local.set $x (i32.add (local.get $x) (i32.const @{row_step})))
    (br_if $row (local.tee $count (i32.sub (local.get $count) (i32.const 1)))))
)
