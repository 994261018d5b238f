"""Known bugs of the family diffusion: the noise scale, the schedules, float32 tables, and a changelog of no-ops."""

from trueness.regressions.diffusion import guidance, sampling, schedules, sde, steps, tables

BUGS = (*steps.BUGS, *tables.BUGS, *schedules.BUGS, *sde.BUGS, *sampling.BUGS, *guidance.BUGS)
