"""From a request to verdicts: trials, jobs, worker processes."""
