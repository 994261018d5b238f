"""The Omega rule token by token, with its state carried between calls."""
