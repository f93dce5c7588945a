"""N4 in numpy on a regular grid: what Trephine's kernels compute, in any precision.

The voxels lie on a grid, so ITK's fit of a B-spline to scattered data factorises into one
small contraction an axis. Used by n4_against_simpleitk.py as a second opinion in float64
and as a contender in float32. Arrays are [x, y, z] or [z, y, x]: any order.

Tustison et al., "N4ITK: improved N3 bias correction", IEEE TMI 29(6), 2010; ITK's
N4BiasFieldCorrectionImageFilter.
"""

import numpy as np


def cubic(v):
    """The uniform cubic B-spline, support [-2, 2]."""
    a = np.abs(v)
    inner = (4 - 6 * a**2 + 3 * a**3) / 6
    return np.where(a < 1, inner, np.where(a < 2, (2 - a) ** 3 / 6, 0))


def basis(n, spans):
    """[n, spans + 3]: weights of the control points at each of n voxels."""
    u = spans * np.arange(n) / max(n - 1, 1)
    if n > 1:
        u[-1] = spans - 1e-3 * spans / (n - 1)  # the domain is half-open
    first = np.minimum(u.astype(int), spans - 1)
    weights = np.zeros((n, spans + 3))
    for k in range(4):
        weights[np.arange(n), first + k] = cubic(u - first - k + 1)
    return weights


def along(matrix, array, axis):
    """Multiplies one axis by a matrix [new, old]."""
    return np.moveaxis(np.tensordot(matrix, array, axes=(1, axis)), 0, axis)


def refine(lattice):
    """The same spline with twice the spans along each axis."""
    for axis in range(lattice.ndim):
        p = np.moveaxis(lattice, axis, 0)
        fine = np.empty((2 * len(p) - 3, *p.shape[1:]), p.dtype)
        fine[0::2] = (p[:-1] + p[1:]) / 2
        fine[1::2] = (p[:-2] + 6 * p[1:-1] + p[2:]) / 8
        lattice = np.moveaxis(fine, 0, axis)
    return lattice


def expected(histogram, least, slope, fwhm, noise, dtype):
    """E of each bin: the histogram deconvolved by a Gaussian, as in the paper's eq. 8."""
    bins = len(histogram)
    padded = 2 * 2 ** int(np.ceil(np.log2(bins)))
    offset = (padded - bins) // 2
    h = np.zeros(padded)
    h[offset : offset + bins] = histogram
    n = np.minimum(np.arange(padded), padded - np.arange(padded))
    s = fwhm / slope
    gauss = 2 * np.sqrt(np.log(2) / np.pi) / s * np.exp(-4 * np.log(2) * (n / s) ** 2)
    f = np.fft.fft(gauss)
    wiener = (np.conj(f) / (np.conj(f) * f + noise)).real
    sharp = np.maximum(np.fft.ifft(np.fft.fft(h) * wiener).real, 0)
    x = least + (np.arange(padded) - offset) * slope
    # Sums of positive terms: no cancellation, unlike a product of spectra.
    kernel = gauss[(np.arange(padded)[:, None] - np.arange(padded)) % padded]
    mass = kernel @ sharp
    moment = kernel @ (x * sharp)
    e = np.divide(moment, mass, out=np.zeros(padded), where=mass != 0)
    return e[offset : offset + bins].astype(dtype)


def n4(
    image, mask, iterations, tolerance, dtype=np.float64, *, bins=200, fwhm=0.15, noise=0.01, watch=None
):
    """Lattice of the log field on the (shrunken) image, and iterations of each level.

    `watch(level, change)` sees exp(old field - new field) inside the mask after each iteration.
    """
    inside = np.ones(image.shape, bool) if mask is None else mask > 0
    v0 = image.astype(dtype)
    v0 = np.where(v0 > 0, np.log(np.where(v0 > 0, v0, 1)), v0)  # ITK leaves others raw
    weight = inside.astype(dtype)
    v, field, lattice, ran = v0.copy(), np.zeros_like(v0), None, []
    for level, most in enumerate(iterations):
        if level:
            lattice = refine(lattice)
        spans = [2**level] * 3
        b = [basis(n, s) for n, s in zip(image.shape, spans)]
        delta_basis = [(w**3 / (w**2).sum(1, keepdims=True)).T.astype(dtype) for w in b]
        omega = weight
        for axis in range(3):
            omega = along((b[axis] ** 2).T.astype(dtype), omega, axis)
        done = 0
        while done < most:
            done += 1
            x = v[inside]
            least, slope = x.min(), (x.max() - x.min()) / dtype(bins - 1)
            c = (x - least) / slope
            j = np.minimum(c.astype(int), bins - 2)
            t = c - j
            h = np.bincount(j, 1 - t, bins) + np.bincount(j + 1, t, bins)
            e = expected(h, least, slope, fwhm, noise, dtype)
            delta = np.zeros_like(v)
            delta[inside] = x - (e[j] + (e[j + 1] - e[j]) * t)
            for axis in range(3):
                delta = along(delta_basis[axis], delta, axis)
            phi = np.divide(delta, omega, out=np.zeros_like(delta), where=omega > 1e-20)
            lattice = phi if lattice is None else lattice + phi
            new = evaluate(lattice, image.shape, dtype)
            change = np.exp((field - new)[inside].astype(np.float64))
            field, v = new, v0 - new
            if watch:
                watch(level, change)
            if change.std(ddof=1) / change.mean() <= tolerance:
                break
        ran.append(done)
    return lattice, ran


def evaluate(lattice, shape, dtype=np.float64):
    """The spline on a grid that spans its whole domain."""
    field = lattice.astype(dtype)
    for axis, n in enumerate(shape):
        field = along(basis(n, lattice.shape[axis] - 3).astype(dtype), field, axis)
    return field
