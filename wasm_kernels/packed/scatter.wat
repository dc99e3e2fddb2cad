;; `width` vectors a group at $x, lane i of vector k being value k of agent i -> rows of $n groups of four agents,
;; `width` float32 each, end to end at $y: gather.wat backwards, two columns at a time, an odd last one alone.
(func $@{name} (param $x i32) (param $y i32) (param $n i32) (local $a v128) (local $b v128)
  (loop $group
;;@ for q in 0..width // 2
    (local.set $a (v128.load offset=@{32 * q} (local.get $x)))
    (local.set $b (v128.load offset=@{32 * q + 16} (local.get $x)))
    (v128.store64_lane offset=@{4 * 2 * q} 0 (local.get $y)
      (i8x16.shuffle 0 1 2 3 16 17 18 19 4 5 6 7 20 21 22 23 (local.get $a) (local.get $b)))
    (v128.store64_lane offset=@{4 * (width + 2 * q)} 1 (local.get $y)
      (i8x16.shuffle 0 1 2 3 16 17 18 19 4 5 6 7 20 21 22 23 (local.get $a) (local.get $b)))
    (v128.store64_lane offset=@{4 * (2 * width + 2 * q)} 0 (local.get $y)
      (i8x16.shuffle 8 9 10 11 24 25 26 27 12 13 14 15 28 29 30 31 (local.get $a) (local.get $b)))
    (v128.store64_lane offset=@{4 * (3 * width + 2 * q)} 1 (local.get $y)
      (i8x16.shuffle 8 9 10 11 24 25 26 27 12 13 14 15 28 29 30 31 (local.get $a) (local.get $b)))
;;@ end
;;@ if width % 2
    (local.set $a (v128.load offset=@{16 * (width - 1)} (local.get $x)))
;;@ for r in 0..4
    (v128.store32_lane offset=@{4 * (r * width + width - 1)} @{r} (local.get $y) (local.get $a))
;;@ end
;;@ end
    (local.set $x (i32.add (local.get $x) (i32.const @{16 * width})))
    (local.set $y (i32.add (local.get $y) (i32.const @{16 * width})))
    (br_if $group (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
)
