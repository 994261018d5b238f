"""Seconds and peak memory of one call: for the history's curves, never for a gate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Measured, require_as_judged
from benchmarks.subjects import PARAM_NAMES, Refused, Subject, class_name, is_timed, params, timed_formulas


class _Timed(Measured):
    formula: Any
    param_names = PARAM_NAMES
    rounds, repeat, sample_time, warmup_time = 1, (3, 7, 0.1), 0.005, 0.01

    def setup(self, found: Any, implementation: str, dtype: str, elements: int, device: str) -> None:
        torch.set_num_threads(1)
        declared = next(i for i in self.formula.implementations if i.name == implementation)
        finding = found[(self.formula.name, implementation, dtype, elements, device)]
        subject = Subject(self.formula, declared, dtype, elements, device, finding.case)
        if finding.skipped:
            raise NotImplementedError(finding.skipped)
        if finding.refused:
            raise Refused(finding.refused)
        require_as_judged(subject, Path.cwd())
        self.call, self.cuda = subject.call, device == "cuda"

    def time_call(self, *_: Any) -> None:
        self.call()
        if self.cuda:
            torch.cuda.synchronize()

    def peakmem_call(self, *_: Any) -> None:
        self.call()


for _formula in timed_formulas():
    globals()[class_name(_formula)] = type(
        class_name(_formula), (_Timed,), {"formula": _formula, "params": params(_formula, is_timed)}
    )
