;; The harmless one: answers the mean of its two inputs, and how often it was asked.
;; Kernel ABI 1 (docs/kernel-abi.md): rows of two float32 at 0, answers of two float32 at 65536.
(module
  (memory (export "memory") 2 2)
  (global $asked (mut f32) (f32.const 0))
  (func (export "run")
    (global.set $asked (f32.add (global.get $asked) (f32.const 1)))
    (f32.store (i32.const 65536)
      (f32.mul (f32.const 0.5) (f32.add (f32.load (i32.const 0)) (f32.load (i32.const 4)))))
    (f32.store (i32.const 65540) (global.get $asked)))
  (func (export "run_batch") (param i32) (unreachable)))
