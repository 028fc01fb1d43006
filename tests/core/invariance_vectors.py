"""Vectors of the losses of redshift invariance and of augmented copies, for make-vectors.py. Gradients are differences of the definitions."""
import numpy as np


def f32(a):
    return np.asarray(a, np.float32).astype(np.float64)


def sigmoid(x):
    return 0.5 * (1 + np.tanh(x / 2))


def similarity_forward(rest, latent, root, window, slope, scale_free):
    """Losses of the spectra of a batch, pair by pair; distances' differences from the definition."""
    n = rest.shape[0]
    median = np.sort(rest[:, window[0]:window[1]], 1)[:, (window[1] - window[0] - 1) // 2]
    x = rest / np.maximum(median, 1e-3)[:, None]
    spectral = ((root * (x[:, None] - x[None])) ** 2).sum(2)
    distance = ((latent[:, None] - latent[None]) ** 2).mean(2)
    if scale_free:
        pairs = max(1, n * (n - 1))
        spectral, distance = spectral / (spectral.sum() / pairs + 1e-12), distance / (distance.sum() / pairs + 1e-12)
    t = slope * (distance - spectral)
    pair = sigmoid(t - 2.5) + sigmoid(-t - 2.5)
    return (pair.sum(1) - pair.diagonal()) / n


def numeric_gradient(function, inputs, name, h):
    """Central differences with an error of h^4, for a double function."""
    x, gradient = inputs[name], np.zeros_like(inputs[name])
    for i in range(x.size):
        total = 0
        for step, weight in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
            moved = x.copy()
            moved.flat[i] += step * h
            total += weight * function(**{**inputs, name: moved})
        gradient.flat[i] = total / (12 * h)
    return gradient


def make_similarity(writer, rng):
    """The core's gradients are against differences of the definition."""
    for name, n, r, s, window, slope, scale_free in [
            ("published", 5, 23, 3, (4, 17), 2.0, 0), ("scale-free", 5, 23, 3, (4, 17), 2.0, 1), ("pair", 2, 9, 1, (0, 9), 0.7, 1),
            ("even-window", 4, 20, 2, (3, 13), 1.3, 0), ("steep", 6, 31, 2, (0, 31), 9.9, 1), ("alone", 1, 9, 2, (2, 7), 1.0, 1),
            ("identical", 5, 19, 2, (2, 15), 3.0, 0), ("identical-scale-free", 5, 19, 2, (2, 15), 3.0, 1),
            ("all-identical", 3, 11, 2, (0, 11), 2.0, 1), ("median-too-small", 4, 15, 2, (2, 13), 1.0, 0)]:
        rest, latent = f32(1 + 0.3 * rng.normal(size=(n, r))), f32(rng.normal(size=(n, s)))
        root = f32(np.sqrt(rng.uniform(0.5, 20, r) / r))
        if "identical" in name:
            rest[3 % n], latent[3 % n] = rest[0], latent[0]
        if name == "all-identical":
            rest[:], latent[:] = rest[0], latent[0]
        if name == "median-too-small":
            rest[1] -= f32(1.2)
            root = f32(root * 1e-3)
        inputs = dict(rest=rest, latent=latent)
        factor = 0.8

        def mean(rest, latent):
            return factor * similarity_forward(rest, latent, root, window, slope, scale_free).mean()

        zero = name in ("alone", "all-identical")  # differences would divide by the smallest distance
        drest, dlatent = [np.zeros_like(inputs[k]) if zero else numeric_gradient(mean, inputs, k, 3e-5) for k in ("rest", "latent")]
        writer.case(name, dict(n=n, n_rest=r, n_latent=s, start=window[0], end=window[1], slope=slope, scale_free=scale_free, factor=factor),
                    dict(root=root, loss=similarity_forward(rest, latent, root, window, slope, scale_free), drest=drest, dlatent=dlatent,
                         **inputs))
    writer.close()


def consistency_forward(latent, copy, sigma, scale_free):
    steps = ((latent - np.roll(latent, -1, 0)) ** 2).mean(1) / 2 + 1e-12
    unit = sigma ** 2 * (np.exp(np.log(steps).mean()) if scale_free else 1)
    return sigmoid(((copy - latent[:copy.shape[0]]) ** 2).mean(1) / unit) - 0.5


def make_consistency(writer, rng):
    for name, n, copies, s, sigma, size, scale_free in [
            ("published", 7, 7, 3, 0.1, 1.0, 0), ("scale-free", 7, 7, 3, 0.1, 1.0, 1), ("half-copied", 6, 3, 2, 0.5, 1.0, 1),
            ("small-latents", 5, 4, 2, 0.1, 1e-3, 1), ("far", 4, 4, 2, 0.01, 1.0, 1), ("alone", 1, 1, 3, 0.1, 1.0, 0),
            ("alone-scale-free", 1, 1, 3, 0.1, 1.0, 1), ("the-same", 4, 2, 2, 0.1, 1.0, 1),
            ("two", 2, 1, 2, 0.3, 1.0, 1)]:
        latent = f32(size * rng.normal(size=(n, s)))
        copy = f32(latent[:copies] + (0 if name == "the-same" else sigma * size * rng.normal(size=(copies, s))))
        factor = 1.3
        inputs = dict(latent=latent, copy=copy)

        def mean(latent, copy):
            return factor * consistency_forward(latent, copy, sigma, scale_free).mean()

        gradients = {k: np.zeros_like(v) if name == "alone-scale-free" else numeric_gradient(mean, inputs, k, 1e-4 * size * sigma)
                     for k, v in inputs.items()}
        writer.case(name, dict(n=n, copies=copies, n_latent=s, sigma=sigma, scale_free=scale_free, factor=factor, size=size),
                    dict(loss=consistency_forward(latent, copy, sigma, scale_free), dlatent=gradients["latent"], dcopy=gradients["copy"],
                         **inputs))
    writer.close()


# ---- copies at other redshifts, from splitmix64

def mix(x):
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def drawn(key, i):
    return ((mix(np.uint64(key) ^ mix(np.asarray(i, np.uint64))) >> np.uint64(12)).astype(np.float64) + 0.5) / 2.0 ** 52


def augment(flux, ivar, z, wave, key, z_range, noisy, noise, masked):
    m = wave.size
    to_z = f32(z_range[0] + (z_range[1] - z_range[0]) * drawn(key, 0))
    at = wave * (1 + z) / (1 + to_z)
    covered = (at >= wave[0]) & (at <= wave[-1])
    pixels = 2 + 3 * np.arange(m)
    n = noise * max(0, flux[ivar > 0].max(initial=0)) * np.sqrt(-2 * np.log(drawn(key, pixels + 1))) * np.cos(2 * np.pi * drawn(key, pixels + 2))
    n = np.where(drawn(key, pixels) < noisy, n, 0)
    to_flux = np.where(covered, np.interp(at, wave, flux) + n, 0)
    bad = np.interp(at, wave, (ivar == 0).astype(float)) > 0
    w = np.where(covered & ~bad, np.interp(at, wave, ivar), 0)
    to_ivar = np.where(w > 0, 1 / (1 / np.where(w > 0, w, 1) + n ** 2), 0)
    size = int(masked * m + 0.5)
    first = int(drawn(key, 1) * (m - size + 1))
    to_flux[first:first + size] = to_ivar[first:first + size] = 0
    return to_flux, to_ivar, to_z


def make_augment(writer, rng, wave):
    m = wave.size
    for name, n, z_range, noisy, noise, masked in [
            ("sdss", 4, (0, 0.5), 0.05, 0.2, 0.05), ("redshift-only", 5, (0, 0.8), 0, 0, 0), ("same-redshift", 2, (0.25, 0.25), 0.5, 0.1, 0),
            ("far-away", 2, (30, 30), 0.1, 0.1, 0.1), ("all-masked", 1, (0, 0.1), 0.1, 0.1, 1)]:
        key = rng.integers(0, 10 ** 9, n)
        z = f32(np.full(n, 0.25) if name == "same-redshift" else rng.uniform(0.01, 0.4, n))
        flux = f32(1 + 0.3 * rng.normal(size=(n, m)))
        ivar = f32(rng.uniform(0.5, 30, (n, m)) * (rng.uniform(size=(n, m)) > 0.1))
        if name == "sdss":
            ivar[3] = 0
        made = [augment(flux[i], ivar[i], z[i], wave, int(key[i]), z_range, noisy, noise, masked) for i in range(n)]
        writer.case(name, dict(n=n, n_observed=m, z_low=z_range[0], z_high=z_range[1], noisy=noisy, noise=noise, masked=masked),
                    dict(wave_observed=wave, key=key, flux=flux, ivar=ivar, z=z, to_flux=[a[0] for a in made], to_ivar=[a[1] for a in made],
                         to_z=[a[2] for a in made]))
    writer.close()
