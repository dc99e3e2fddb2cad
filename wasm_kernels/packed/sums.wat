;; A dense layer's sums for $n groups of four agents, each agent with weights of its own: lane i of every vector is
;; agent i of the group, so a sum of four agents is one multiply-add of two vectors.
;; $x: `inputs` vectors a group.  $w: the first group's weights of this layer, `group_bytes` from group to group; panels
;; as in dense_f32/gemv.wat, a column being one output of four agents: a row of bias, then a row for each input.
;; $y: `outputs` vectors a group.  $k_bytes: 16 * inputs, at run time so that no branch below can be folded away.
;; Every weight is used once, so loads are the limit; the shape of the loop, and why the branches that leave it, are
;; gemv.wat's.  A layer of up to `unroll` inputs needs no loop over them.
(func $@{name} (param $x i32) (param $k_bytes i32) (param $w i32) (param $y i32) (param $n i32)
  (local $xe i32) (local $xp i32) (local $wp i32) (local $s v128)
;;@ for c in 0..width
  (local $a@{c} v128) (local $b@{c} v128)
;;@ end
;;@ define step
;;@ for c in 0..columns
        (local.set $b@{c} (v128.load offset=@{at + 16 * ((u + 1) * columns + c)} (local.get @{rows})))
;;@ end
        (local.set $s (v128.load offset=@{16 * u} (local.get @{values})))
;;@ for c in 0..columns
        (local.set $a@{c} (@{fma} (local.get $b@{c}) (local.get $s) @{into} (local.get $a@{c})))
;;@ end
;;@ if u < steps - 1
        (br_if $out (i32.eq (i32.add (local.get @{values}) (i32.const @{16 * u + 16})) (local.get $xe)))
;;@ end
;;@ end
;;@ define whole
    (block $out
;;@ for c in 0..columns
      (local.set $a@{c} (v128.load offset=@{at + 16 * c} (local.get $w)))
;;@ end
;;@ for u in 0..inputs
;;@ use step at=@{at} rows=$w values=$x steps=@{inputs}
;;@ end
    )
;;@ for c in 0..columns
    (v128.store offset=@{first + 16 * c} (local.get $y) (local.get $a@{c}))
;;@ end
;;@ end
;;@ define loop
    (local.set $xp (local.get $x))
    (local.set $wp (i32.add (local.get $w) (i32.const @{at})))
;;@ for c in 0..columns
    (v128.store offset=@{first + 16 * c} (local.get $y) (v128.load offset=@{16 * c} (local.get $wp)))
;;@ end
    (loop $k
      (block $out
;;@ for c in 0..columns
        (local.set $a@{c} (v128.load offset=@{first + 16 * c} (local.get $y)))
;;@ end
;;@ for u in 0..unroll
;;@ use step at=0 rows=$wp values=$xp steps=@{unroll}
;;@ end
      )
;;@ for c in 0..columns
      (v128.store offset=@{first + 16 * c} (local.get $y) (local.get $a@{c}))
;;@ end
      (local.set $wp (i32.add (local.get $wp) (i32.const @{16 * columns * unroll})))
      (local.set $xp (i32.add (local.get $xp) (i32.const @{16 * unroll})))
      (br_if $k (i32.lt_u (local.get $xp) (local.get $xe))))
;;@ end
  (loop $group
    (local.set $xe (i32.add (local.get $x) (local.get $k_bytes)))
;;@ for p in 0..panels
;;@ use @{form} columns=@{width} at=@{16 * p * width * (inputs + 1)} first=@{16 * p * width}
;;@ end
;;@ if last
;;@ use @{form} columns=@{last} at=@{16 * panels * width * (inputs + 1)} first=@{16 * panels * width}
;;@ end
    (local.set $w (i32.add (local.get $w) (i32.const @{group_bytes})))
    (local.set $x (i32.add (local.get $x) (i32.const @{16 * inputs})))
    (local.set $y (i32.add (local.get $y) (i32.const @{16 * outputs})))
    (br_if $group (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
)
