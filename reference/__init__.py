"""What is true: NumPy only, one function for one equation."""
