;; i8 -> both halves of q + 128, 4 bits each: 16 bytes of high halves, 16 of low ones, 16 values after the other.  What
;; dense.wat multiplies.  `values` of them; what fills the last vector may be anything, for its weights are 0.
(func $@{name} (param $x i32) (param $to i32) (local $end i32) (local $v v128)
  (local.set $end (i32.add (local.get $to) (i32.const @{2 * values})))
  (loop $copy
    (local.set $v (v128.xor (v128.load (local.get $x)) (v128.const i32x4 0x80808080 0x80808080 0x80808080 0x80808080)))
    (v128.store (local.get $to) (v128.and (i16x8.shr_u (local.get $v) (i32.const 4))
      (v128.const i32x4 0x0f0f0f0f 0x0f0f0f0f 0x0f0f0f0f 0x0f0f0f0f)))
    (v128.store offset=16 (local.get $to) (v128.and (local.get $v)
      (v128.const i32x4 0x0f0f0f0f 0x0f0f0f0f 0x0f0f0f0f 0x0f0f0f0f)))
    (local.set $x (i32.add (local.get $x) (i32.const 16)))
    (br_if $copy (i32.lt_u (local.tee $to (i32.add (local.get $to) (i32.const 32))) (local.get $end))))
)
