"""The evidence of the ledger, run again, and mutation tests of the library."""
