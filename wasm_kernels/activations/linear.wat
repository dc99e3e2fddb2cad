;; linear: x stays x.
