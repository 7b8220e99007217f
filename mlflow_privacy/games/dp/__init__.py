"""Lower bounds on ε from canaries."""
