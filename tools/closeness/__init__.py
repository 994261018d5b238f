"""Any function as a reference: its bound, and assertions in the manner of ``torch.testing``."""
