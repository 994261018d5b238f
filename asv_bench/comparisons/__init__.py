"""Ours and its peers, timed in turn on the tensors on which they were judged."""
