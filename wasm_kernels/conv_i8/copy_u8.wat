;; `count` bytes, each with the bits of $turn turned over.  Up to 15 bytes behind the last are overwritten.
(func $@{name} (param $x i32) (param $count i32) (param $to i32) (param $turn i32)
  (local $end i32) (local $most i32) (local $t v128)
  (local.set $end (i32.add (local.get $to) (local.get $count)))
  (local.set $most (i32.add (local.get $to) (i32.and (local.get $count) (i32.const -128))))
  (if (i32.lt_u (local.get $to) (local.get $most)) (then
    (loop $copy
      (local.set $t (i8x16.splat (local.get $turn)))
;;@ for i in 0..8
      (v128.store offset=@{16 * i} (local.get $to) (v128.xor (local.get $t) (v128.load offset=@{16 * i} (local.get $x))))
;;@ end
      (local.set $x (i32.add (local.get $x) (i32.const 128)))
      (br_if $copy (i32.lt_u (local.tee $to (i32.add (local.get $to) (i32.const 128))) (local.get $most))))))
  (if (i32.lt_u (local.get $to) (local.get $end)) (then
    (loop $rest
      (v128.store (local.get $to) (v128.xor (v128.load (local.get $x)) (i8x16.splat (local.get $turn))))
      (local.set $x (i32.add (local.get $x) (i32.const 16)))
      (br_if $rest (i32.lt_u (local.tee $to (i32.add (local.get $to) (i32.const 16))) (local.get $end))))))
)
