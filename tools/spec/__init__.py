"""What is declared: formulas, implementations, bugs, verdicts, and their registry."""
