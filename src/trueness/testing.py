"""Assertions for anybody's tests, in the manner of ``torch.testing``, without a tolerance."""

try:
    from trueness.tools.closeness.assertions import assert_close, assert_close_gradients
except ModuleNotFoundError as missing:
    if (missing.name or "").startswith("trueness"):
        raise
    needs = f"trueness.testing needs {missing.name}: pip install 'trueness[verify]'"
    raise ModuleNotFoundError(needs, name=missing.name) from None

__all__ = ["assert_close", "assert_close_gradients"]
