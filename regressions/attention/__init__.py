"""Known bugs of the family attention: an inversion that never was, windows not put back, biases that do nothing."""

from trueness.regressions.attention import blocks, masks, positions, reports, self_attention

BUGS = (*masks.BUGS, *self_attention.BUGS, *positions.BUGS, *blocks.BUGS, *reports.BUGS)
