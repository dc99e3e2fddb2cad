;; One dense layer on one row: one call of gemv for each group of columns.
(func $@{name} (param $x i32) (param $w i32) (param $y i32)
  @{calls}
)
