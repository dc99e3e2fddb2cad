;; Rows of $n groups of four agents, `width` float32 each, end to end at $x -> `width` vectors a group at $y: lane i of
;; vector k is value k of agent i.  Four columns at a time as a transposition, the rest value by value.
(func $@{name} (param $x i32) (param $y i32) (param $n i32)
  (local $r0 v128) (local $r1 v128) (local $r2 v128) (local $r3 v128)
  (local $l0 v128) (local $l1 v128) (local $h0 v128) (local $h1 v128)
  (loop $group
;;@ for q in 0..width // 4
;;@ for r in 0..4
    (local.set $r@{r} (v128.load offset=@{4 * r * width + 16 * q} align=4 (local.get $x)))
;;@ end
    (local.set $l0 (i8x16.shuffle 0 1 2 3 16 17 18 19 4 5 6 7 20 21 22 23 (local.get $r0) (local.get $r1)))
    (local.set $h0 (i8x16.shuffle 8 9 10 11 24 25 26 27 12 13 14 15 28 29 30 31 (local.get $r0) (local.get $r1)))
    (local.set $l1 (i8x16.shuffle 0 1 2 3 16 17 18 19 4 5 6 7 20 21 22 23 (local.get $r2) (local.get $r3)))
    (local.set $h1 (i8x16.shuffle 8 9 10 11 24 25 26 27 12 13 14 15 28 29 30 31 (local.get $r2) (local.get $r3)))
    (v128.store offset=@{64 * q} (local.get $y)
      (i8x16.shuffle 0 1 2 3 4 5 6 7 16 17 18 19 20 21 22 23 (local.get $l0) (local.get $l1)))
    (v128.store offset=@{64 * q + 16} (local.get $y)
      (i8x16.shuffle 8 9 10 11 12 13 14 15 24 25 26 27 28 29 30 31 (local.get $l0) (local.get $l1)))
    (v128.store offset=@{64 * q + 32} (local.get $y)
      (i8x16.shuffle 0 1 2 3 4 5 6 7 16 17 18 19 20 21 22 23 (local.get $h0) (local.get $h1)))
    (v128.store offset=@{64 * q + 48} (local.get $y)
      (i8x16.shuffle 8 9 10 11 12 13 14 15 24 25 26 27 28 29 30 31 (local.get $h0) (local.get $h1)))
;;@ end
;;@ for k in width - width % 4..width
    (v128.store offset=@{16 * k} (local.get $y)
      (v128.load32_lane offset=@{4 * (3 * width + k)} 3 (local.get $x)
        (v128.load32_lane offset=@{4 * (2 * width + k)} 2 (local.get $x)
          (v128.load32_lane offset=@{4 * (width + k)} 1 (local.get $x)
            (v128.load32_zero offset=@{4 * k} (local.get $x))))))
;;@ end
    (local.set $x (i32.add (local.get $x) (i32.const @{16 * width})))
    (local.set $y (i32.add (local.get $y) (i32.const @{16 * width})))
    (br_if $group (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
)
