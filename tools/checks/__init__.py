"""The generic checks, one file per kind."""
