"""The Omega rule with gradient descent: a handful of matrix products a chunk."""
