"""Makes gate, history and benchmarks importable: they are scripts beside the package, not part of it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
