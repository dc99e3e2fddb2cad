;; sigmoid_stepwise_symmetric: FANN's straight lines beside tanh; -1 below the first point and 1 from the last on.
;;@ use stepwise low=-2.646652936935424805
