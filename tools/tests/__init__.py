"""The tests of the instruments."""
