"""Known wrong variants of the family atlas_memory: MEM-01 … MEM-10, MEM-13, MEM-14 and MEM-36."""

from trueness.regressions.atlas_memory import failures, features, forms, memory, optimizers, windows

BUGS = (*memory.BUGS, *features.BUGS, *windows.BUGS, *optimizers.BUGS, *failures.BUGS, *forms.BUGS)
