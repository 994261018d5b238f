"""What went wrong: every known bug as a declaration, and the evidence for its verdict."""
