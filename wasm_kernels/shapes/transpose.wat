;; float32[rows, columns] at $x -> float32[columns, rows] at $y, in tiles of 4 x 4.
;; The last tile of a side overlaps the one before it; a side shorter than a tile reads what lies behind it, and what is
;; written behind a short row is written over by the next row: rows of y come in order there.
;;@ define tile
      (local.set $a (v128.load (local.get $p)))
      (local.set $b (v128.load offset=@{4 * columns} (local.get $p)))
      (local.set $c (v128.load offset=@{8 * columns} (local.get $p)))
      (local.set $d (v128.load offset=@{12 * columns} (local.get $p)))
      (local.set $e (i8x16.shuffle 0 1 2 3 16 17 18 19 4 5 6 7 20 21 22 23 (local.get $a) (local.get $b)))
      (local.set $f (i8x16.shuffle 0 1 2 3 16 17 18 19 4 5 6 7 20 21 22 23 (local.get $c) (local.get $d)))
      (local.set $a (i8x16.shuffle 8 9 10 11 24 25 26 27 12 13 14 15 28 29 30 31 (local.get $a) (local.get $b)))
      (local.set $c (i8x16.shuffle 8 9 10 11 24 25 26 27 12 13 14 15 28 29 30 31 (local.get $c) (local.get $d)))
      (v128.store (local.get $q)
        (i8x16.shuffle 0 1 2 3 4 5 6 7 16 17 18 19 20 21 22 23 (local.get $e) (local.get $f)))
;;@ if columns > 1
      (v128.store offset=@{4 * rows} (local.get $q)
        (i8x16.shuffle 8 9 10 11 12 13 14 15 24 25 26 27 28 29 30 31 (local.get $e) (local.get $f)))
;;@ end
;;@ if columns > 2
      (v128.store offset=@{8 * rows} (local.get $q)
        (i8x16.shuffle 0 1 2 3 4 5 6 7 16 17 18 19 20 21 22 23 (local.get $a) (local.get $c)))
;;@ end
;;@ if columns > 3
      (v128.store offset=@{12 * rows} (local.get $q)
        (i8x16.shuffle 8 9 10 11 12 13 14 15 24 25 26 27 28 29 30 31 (local.get $a) (local.get $c)))
;;@ end
;;@ end
;;@ define strip
    (local.set $p (local.get $x))
    (local.set $q (local.get $y))
    (local.set $n (i32.const @{(rows + 3) // 4}))
    (loop $down
;;@ use tile
;;@ if rows > 4
      (if (i32.eq (local.get $n) (i32.const 2))
        (then
          (local.set $p (i32.add (local.get $x) (i32.const @{4 * columns * (rows - 4)})))
          (local.set $q (i32.add (local.get $y) (i32.const @{4 * (rows - 4)}))))
        (else
          (local.set $p (i32.add (local.get $p) (i32.const @{16 * columns})))
          (local.set $q (i32.add (local.get $q) (i32.const 16)))))
;;@ end
      (br_if $down (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
;;@ end
(func $@{name} (param $x i32) (param $y i32) (local $p i32) (local $q i32) (local $n i32) (local $m i32)
  (local $a v128) (local $b v128) (local $c v128) (local $d v128) (local $e v128) (local $f v128)
  (local.set $m (i32.const @{(columns + 3) // 4}))
  (loop $across
;;@ use strip
;;@ if columns > 4
    (if (i32.eq (local.get $m) (i32.const 2))
      (then
        (local.set $x (i32.add (local.get $x) (i32.const @{4 * ((columns - 4) - (columns - 1) // 4 * 4 + 4)})))
        (local.set $y (i32.add (local.get $y) (i32.const @{4 * rows * ((columns - 4) - (columns - 1) // 4 * 4 + 4)}))))
      (else
        (local.set $x (i32.add (local.get $x) (i32.const 16)))
        (local.set $y (i32.add (local.get $y) (i32.const @{16 * rows})))))
;;@ end
    (br_if $across (local.tee $m (i32.sub (local.get $m) (i32.const 1)))))
)
