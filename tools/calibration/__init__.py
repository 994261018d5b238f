"""False accepts and false rejects of the bound, measured."""
