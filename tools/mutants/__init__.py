"""Machine-made mutants of the references: one change of the syntax tree each, which the cases of a run must reject."""
