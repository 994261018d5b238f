"""The random draws of the kernels' features: once, in a fixed order, from one generator - before anything is tiled."""

from __future__ import annotations

import math

import torch

from trueness.optimized.kernels import frequencies
from trueness.optimized.kernels.sorf import power
from trueness.optimized.kernels.validation import require_count, require_positive

__all__ = ["sample_frequencies", "sample_offsets", "sample_orthogonal_frequencies", "sample_signs"]

SPECTRA = ("gaussian", "laplacian_l1", "laplacian_l2", "cauchy_product", "cauchy_radial", "matern")


def _require_generator(generator: object) -> torch.Generator:
    if not isinstance(generator, torch.Generator):
        raise ValueError(f"generator was {type(generator).__name__}; it must be a torch.Generator.")
    return generator


def _open_uniform(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Uniform on (0, 1), both ends excluded: their quantiles are infinite."""
    u = torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)
    return u.clamp(2.0**-53, 1 - 2.0**-53)


def sample_frequencies(
    kernel: str,
    dimensions: int,
    features: int,
    *,
    generator: torch.Generator,
    lengthscale: float = 1.0,
    nu: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """W (d, D): columns from the spectral density of a kernel, on the device of the generator.

    kernel       "gaussian", "laplacian_l1", "laplacian_l2", "cauchy_product", "cauchy_radial" or "matern"
    dimensions   d, of the points
    features     D, the number of columns
    generator    torch.Generator; drawn from in float64, so that a seed means the same in every dtype
    lengthscale  ℓ, the kernel's length scale
    nu           ν, for "matern" alone: 2ν a whole number
    returns      W (d, D) in ``dtype``
    raises       ValueError for another kernel or a number that does not fit
    """
    if kernel not in SPECTRA:
        raise ValueError(f"kernel was {kernel!r}; allowed are {', '.join(SPECTRA)}.")
    require_count(dimensions, "dimensions")
    require_count(features, "features")
    require_positive(lengthscale, "lengthscale")
    if (kernel == "matern") != (nu is not None):
        raise ValueError(f"nu was {nu!r} for the kernel {kernel!r}; it must be given for 'matern' and for no other.")
    device = _require_generator(generator).device

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64, device=device)

    shape = (dimensions, features)
    if kernel == "gaussian":
        drawn = frequencies.gaussian_frequencies(normal(*shape), lengthscale=lengthscale)
    elif kernel == "laplacian_l1":
        drawn = frequencies.laplacian_l1_frequencies(_open_uniform(shape, generator), lengthscale=lengthscale)
    elif kernel == "cauchy_product":
        drawn = frequencies.cauchy_product_frequencies(_open_uniform(shape, generator), lengthscale=lengthscale)
    elif kernel == "laplacian_l2":
        drawn = frequencies.laplacian_l2_frequencies(normal(*shape), normal(features), lengthscale=lengthscale)
    elif kernel == "cauchy_radial":
        exponential = -torch.log(_open_uniform((features,), generator))
        drawn = frequencies.cauchy_radial_frequencies(normal(*shape), exponential, lengthscale=lengthscale)
    else:
        assert nu is not None
        degrees = require_positive(nu, "nu") * 2
        if degrees != int(degrees):
            raise ValueError(f"nu was {nu!r}; it must be a whole number of halves, such as 1.5.")
        chi_square = normal(int(degrees), features).square().sum(0)
        drawn = frequencies.matern_frequencies(normal(*shape), chi_square, lengthscale=lengthscale, nu=nu)
    return drawn.to(dtype)


def sample_offsets(features: int, *, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """b (D,): uniform on [0, 2π), on the device of the generator.

    features   D
    generator  torch.Generator; drawn from in float64
    raises     ValueError if features is not a count
    """
    require_count(features, "features")
    device = _require_generator(generator).device
    return (2 * math.pi * torch.rand(features, generator=generator, dtype=torch.float64, device=device)).to(dtype)


def sample_orthogonal_frequencies(
    dimensions: int,
    features: int,
    *,
    generator: torch.Generator,
    lengthscale: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """W (d, D) for the Gaussian kernel: orthogonal in blocks of d columns, every column N(0, ℓ⁻² I) on its own.

    dimensions   d, of the points
    features     D, the number of columns
    generator    torch.Generator; drawn from in float64
    lengthscale  ℓ, the kernel's standard deviation
    raises       ValueError for a number that does not fit
    """
    require_count(dimensions, "dimensions")
    require_count(features, "features")
    device = _require_generator(generator).device
    count = -(-features // dimensions)
    shape = (count, dimensions, dimensions)
    blocks = torch.randn(shape, generator=generator, dtype=torch.float64, device=device)
    radii = torch.randn(features, dimensions, generator=generator, dtype=torch.float64, device=device).norm(dim=1)
    return frequencies.orthogonal_frequencies(blocks, radii, lengthscale=lengthscale).to(dtype)


def sample_signs(
    dimensions: int, features: int, *, generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """D (B, 3, q): random signs for ``structured_features``, q the power of two that holds d, B blocks for D features.

    dimensions  d, of the points
    features    D
    generator   torch.Generator
    raises      ValueError for a number that does not fit
    """
    require_count(dimensions, "dimensions")
    require_count(features, "features")
    device = _require_generator(generator).device
    q = power(dimensions)
    drawn = torch.randint(0, 2, (-(-features // q), 3, q), generator=generator, device=device)
    return (2 * drawn - 1).to(dtype)
