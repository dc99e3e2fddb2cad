"""The controller of a fleet and the operator's side: init, serve, tokens, waves, index."""
