"""The four arithmetics, the floating-point formats, and the bound."""
