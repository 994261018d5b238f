"""The programs, one module per kind of work."""
