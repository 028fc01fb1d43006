#!/usr/bin/env python3
"""Reference vectors for the stages of the core, from formulas of its own in float64 NumPy.

    python3 tests/core/make-vectors.py        # writes tests/core/vectors/*.txt

Every gradient is checked against finite differences before it is written. Inputs are rounded to float32 first (those of block, and what has the place of
a plane, to bf16), so that the core starts from the very same numbers; margins at the kinks (pool winners, signs) are kept wide enough for float32.

Format, one item a line:
    case NAME            starts a case
    number KEY VALUE
    array KEY COUNT V V V ...
"""
import os

import numpy as np

import invariance_vectors

HERE = os.path.dirname(os.path.abspath(__file__))
EPS = 1e-5
MARGIN = 2e-5  # smallest distance from a kink, relative to values of order 1


def f32(a):
    return np.asarray(a, np.float32).astype(np.float64)


def bf16(a):
    """To 8 significant bits, so that products of such numbers are the same in float, tf32 and bf16."""
    mantissa, exponent = np.frexp(f32(a))
    return np.ldexp(np.rint(mantissa * 256) / 256, exponent)


class Writer:
    def __init__(self, name):
        self.path = os.path.join(HERE, "vectors", name + ".txt")
        self.lines = []

    def case(self, name, numbers, arrays):
        self.lines.append(f"case {name}")
        for key, value in numbers.items():
            self.lines.append(f"number {key} {value!r}")
        for key, value in arrays.items():
            value = np.asarray(value, np.float64).ravel()
            self.lines.append(f"array {key} {value.size} " + " ".join("%.9g" % v for v in value))

    def close(self):
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        with open(self.path, "w") as f:
            f.write("\n".join(self.lines) + "\n")
        print(f"{self.path}: {sum(l.startswith('case') for l in self.lines)} cases, {os.path.getsize(self.path)} bytes")


def check_gradients(function, inputs, gradients, rng, h=1e-6, rtol=2e-6, atol=2e-8, most=40):
    """function(**inputs) -> scalar; gradients: {input name: d scalar / d input}. Central differences, element by element."""
    for name, gradient in gradients.items():
        x = inputs[name]
        assert gradient.shape == x.shape, name
        elements = rng.permutation(x.size)[:most]
        for i in elements:
            values = []
            for sign in (1, -1):
                moved = x.copy()
                moved.flat[i] += sign * h
                values.append(function(**{**inputs, name: moved}))
            fd = (values[0] - values[1]) / (2 * h)
            g = gradient.flat[i]
            assert abs(fd - g) <= atol * max(1, abs(values[0])) / h * 1e-6 + rtol * max(abs(fd), abs(gradient).max()), (
                f"{name}[{i}]: {g} against {fd}")


# ---------------------------------------------------------------------------------------------------------------- convolutions

def convolve(x, w):
    """x (N, L, I), w (k, I, O): zero 'same' padding, correlation."""
    k = w.shape[0]
    half = k // 2
    n, length, _ = x.shape
    padded = np.zeros((n, length + 2 * half, x.shape[2]))
    padded[:, half:half + length] = x
    y = np.zeros((n, length, w.shape[2]))
    for j in range(k):
        y += padded[:, j:j + length] @ w[j]
    return y


def convolve_backward(dy, x, w):
    k = w.shape[0]
    half = k // 2
    n, length, _ = x.shape
    padded = np.zeros((n, length + 2 * half, x.shape[2]))
    padded[:, half:half + length] = x
    dpadded = np.zeros_like(padded)
    dw = np.zeros_like(w)
    for j in range(k):
        dw[j] = np.einsum("nli,nlo->io", padded[:, j:j + length], dy)
        dpadded[:, j:j + length] += dy @ w[j].T
    return dpadded[:, half:half + length], dw


def normalise(v):
    mean = v.mean(1, keepdims=True)
    inverse_sd = 1 / np.sqrt(v.var(1, keepdims=True) + EPS)
    return (v - mean) * inverse_sd, mean[:, 0], inverse_sd[:, 0]


def normalise_backward(du, u, inverse_sd):
    return inverse_sd[:, None] * (du - du.mean(1, keepdims=True) - u * (du * u).mean(1, keepdims=True))


def prelu(u, slope):
    return np.where(u > 0, u, slope * u)


def pool_windows(length, pool):
    count = (length + 2 * (pool // 2) - pool) // pool + 1
    return [(max(0, i * pool - pool // 2), min(length, i * pool - pool // 2 + pool)) for i in range(count)]


def max_pool(a, pool):
    """Values and winners; padding never wins."""
    y, winner = [], []
    for begin, end in pool_windows(a.shape[1], pool):
        y.append(a[:, begin:end].max(1))
        winner.append(begin + a[:, begin:end].argmax(1))
    return np.stack(y, 1), np.stack(winner, 1)


def pool_margin(a, u, pool):
    """Smallest gap between a window's two largest values. Zero slopes are not used: there the winner is a matter of taste."""
    gaps = [np.abs(u).min()]
    for begin, end in pool_windows(a.shape[1], pool):
        if end - begin > 1:
            top = np.sort(a[:, begin:end], 1)
            gaps.append((top[:, -1] - top[:, -2]).min())
    return min(gaps)


def exact(a):
    return a


def fp16(a):
    return np.asarray(a, np.float16).astype(np.float64)


def block_forward(x, w, slope, pool, stored=exact):
    """stored: how the convolution's output is rounded before the norm reads it."""
    u, mean, inverse_sd = normalise(stored(convolve(x, w)))
    a = prelu(u, slope)
    y, winner = max_pool(a, pool)
    return y, (u, a, winner, inverse_sd)


def block_backward(dy, x, w, slope, pool, stored=exact):
    _, (u, a, winner, inverse_sd) = block_forward(x, w, slope, pool, stored)
    da = np.zeros_like(a)
    n, out, c = dy.shape
    rows, channels = np.arange(n)[:, None, None], np.arange(c)[None, None, :]
    np.add.at(da, (np.broadcast_to(rows, dy.shape), winner, np.broadcast_to(channels, dy.shape)), dy)
    dslope = np.where(u > 0, 0, da * u).sum((0, 1))
    dv = normalise_backward(np.where(u > 0, 1, slope) * da, u, inverse_sd)
    dx, dw = convolve_backward(dv, x, w)
    return dx, dw, dslope


def same_winners(x, w, slope, pool, stored, rng):
    """Does no rounding of the products' sums in float change a winner or a sign after `stored`?"""
    u, _, _ = block_forward(x, w, slope, pool, stored)[1][:3]
    want = (block_forward(x, w, slope, pool, stored)[1][2], u > 0)
    for _ in range(20):
        noisy = block_forward(x, w, slope, pool, lambda v: stored(v + 1e-6 * rng.normal(size=v.shape)))[1]
        if (noisy[2] != want[0]).any() or ((noisy[0] > 0) != want[1]).any():
            return False
    return True


def make_blocks(rng):
    stem, block = Writer("stem"), Writer("block")
    # name, N, length, kernel, pool, next kernel, channels in, out, slopes
    cases = [
        ("one-spectrum-one-channel", 1, 21, 5, 5, 3, 1, 1, "positive"),
        ("mixed-slopes", 3, 23, 5, 5, 11, 1, 6, "mixed"),
        ("tail-not-pooled", 2, 24, 5, 5, 11, 1, 4, "mixed"),
        ("edge-windows", 2, 26, 7, 5, 3, 1, 5, "negative"),
        ("wide-window", 2, 40, 3, 11, 5, 1, 3, "positive"),
        ("kernel-one", 2, 12, 1, 3, 5, 1, 3, "mixed"),
        ("no-pool", 2, 17, 5, 1, 3, 1, 3, "mixed"),
        ("constant-spectrum", 2, 22, 5, 5, 3, 1, 4, "mixed"),
        ("faint-spectrum", 2, 31, 5, 5, 3, 1, 4, "mixed"),
        ("many-channels", 2, 67, 5, 5, 11, 1, 37, "mixed"),
    ]
    for name, n, length, k, pool, follows, ci, co, slopes in cases:
        one_block(stem, rng, name, n, length, k, pool, follows, ci, co, slopes, True)
    cases = [
        ("one-spectrum-one-channel", 1, 13, 3, 3, 5, 1, 1, "positive"),
        ("pool", 3, 31, 5, 3, 7, 4, 6, "mixed"),
        ("pool-eleven", 2, 29, 11, 11, 21, 3, 5, "negative"),
        ("tail-not-pooled", 2, 30, 5, 5, 3, 2, 3, "mixed"),
        ("edge-windows", 2, 23, 3, 5, 3, 3, 4, "mixed"),
        ("no-pool", 3, 15, 5, 1, 1, 4, 6, "mixed"),
        ("kernel-longer-than-input", 2, 5, 21, 1, 1, 3, 4, "mixed"),
        ("kernel-one", 2, 9, 1, 3, 3, 3, 5, "positive"),
        ("one-position-out", 2, 5, 3, 11, 1, 2, 3, "mixed"),
        ("wide", 2, 37, 11, 11, 21, 17, 35, "mixed"),
        ("wide-no-pool", 3, 11, 5, 1, 1, 33, 18, "mixed"),
        # batches that a backend may cut into pieces of its own
        ("many-spectra", 9, 12, 3, 3, 3, 2, 3, "mixed"),
    ]
    for name, n, length, k, pool, follows, ci, co, slopes in cases:
        one_block(block, rng, name, n, length, k, pool, follows, ci, co, slopes, False)
    stem.close()
    block.close()


def one_block(writer, rng, name, n, length, k, pool, follows, ci, co, slopes, is_stem):
    rounded = f32 if is_stem else bf16
    for _ in range(200):
        x = rounded(rng.normal(size=(n, length, ci)) + 1)
        w = rounded(rng.uniform(-1, 1, size=(k, ci, co)) / np.sqrt(k * ci))
        if name == "constant-spectrum":  # no variance but at the ends: epsilon matters
            x[-1] = rounded(0.7)
        if name == "faint-spectrum":
            x[-1] = rounded(x[-1] * 1e-3)
        slope = {"positive": rng.uniform(0.05, 0.5, co), "negative": rng.uniform(-0.9, -0.1, co),
                 "mixed": rng.uniform(0.1, 0.9, co) * np.where(np.arange(co) % 2, -1, 1)}[slopes]
        slope = f32(slope)
        y, (u, a, winner, inverse_sd) = block_forward(x, w, slope, pool)
        margin = pool_margin(a[:-1], u[:-1], pool) if name == "constant-spectrum" else pool_margin(a, u, pool)
        if margin > MARGIN and (is_stem or all(same_winners(x, w, slope, pool, stored, np.random.default_rng(1))
                                               for stored in (bf16, fp16))):
            break
    else:
        raise RuntimeError(f"{name}: no sample keeps the margin")
    dy = bf16(rng.normal(size=y.shape))
    if name == "constant-spectrum":
        dy[-1] = 0  # ties: the winner is free, its gradient would not be
    dx, dw, dslope = block_backward(dy, x, w, slope, pool)
    check_gradients(lambda x, w, slope: (block_forward(x, w, slope, pool)[0] * dy).sum(), dict(x=x, w=w, slope=slope),
                    dict(x=dx, w=dw, slope=dslope) if name not in ("constant-spectrum", "faint-spectrum") else
                    dict(slope=dslope), rng, rtol=2e-5)
    numbers = dict(n=n, length=length, kernel=k, pool=pool, next_kernel=follows, channels_in=ci, channels=co)
    arrays = dict(x=x, w=w, slope=slope, y=y, dy=dy)
    if not is_stem:
        arrays["dx"] = dx
        # What planes of 16 bits make of it: the convolution's output is rounded before norm and pool, which may change a winner.
        for short, stored in (("bf16", bf16), ("fp16", fp16)):
            own = block_backward(dy, x, w, slope, pool, stored)
            arrays["y-" + short] = block_forward(x, w, slope, pool, stored)[0]
            arrays.update({f"{key}-{short}": value for key, value in zip(("dx", "dw", "dslope"), own)})
    writer.case(name, numbers, {**arrays, "dw": dw, "dslope": dslope})


# ------------------------------------------------------------------------------------------------------------------- attention

def attend_forward(v, gate, c):
    keys = v[:, :, c:] * (1 if gate is None else gate)
    weight = np.exp(keys - keys.max(1, keepdims=True))
    a = weight / weight.sum(1, keepdims=True)
    return a, (v[:, :, :c] * a).sum(1)


def attend_backward(de, v, gate, c):
    a, _ = attend_forward(v, gate, c)
    da = de[:, None] * v[:, :, :c]
    dkeys = a * (da - (da * a).sum(1, keepdims=True))
    dv = np.concatenate([de[:, None] * a, dkeys * (1 if gate is None else gate)], 2)
    return da, dv, None if gate is None else dkeys * v[:, :, c:]


def make_attend(rng):
    writer = Writer("attend")
    for name, n, length, c, gated, redshift, scale in [
            ("one-segment", 1, 1, 3, False, False, 1), ("plain", 3, 7, 5, False, False, 1),
            ("redshift", 2, 6, 4, False, True, 1), ("gate", 3, 5, 4, True, False, 1),
            ("gate-and-redshift", 2, 9, 3, True, True, 1), ("large-keys", 2, 8, 3, False, True, 100),
            ("one-channel", 1, 11, 1, True, True, 1), ("many-channels", 2, 13, 67, False, True, 3)]:
        v = f32(rng.normal(size=(n, length, 2 * c)))
        v[:, :, c:] = f32(v[:, :, c:] * scale)
        gate = f32(rng.normal(size=(n, length, c))) if gated else None
        stride = c + 1 if redshift else c
        z = f32(rng.uniform(-0.01, 0.5, n))
        a, e = attend_forward(v, gate, c)
        feature = np.concatenate([e, z[:, None]], 1) if redshift else e
        dfeature = f32(rng.normal(size=feature.shape))
        da, dv, dgate = attend_backward(dfeature[:, :c], v, gate, c)
        function = lambda v, gate: (attend_forward(v, gate, c)[1] * dfeature[:, :c]).sum()
        check_gradients(function, dict(v=v, gate=gate), dict(v=dv) if gate is None else dict(v=dv, gate=dgate), rng)
        arrays = dict(v=v, z=z)
        if gated:
            arrays["gate"] = gate
        arrays.update(attention=a, feature=feature, dfeature=dfeature, dattention=da, dv=dv)
        if gated:
            arrays["dgate"] = dgate
        writer.case(name, dict(n=n, length=length, channels=c, feature_stride=stride), arrays)
    writer.close()


# ----------------------------------------------------------------------------------------------------------------- dense layers

def sigmoid(x):
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def dense_forward(x, w, b, slope, beta, gamma, activation, offset):
    v = x @ w.T + b
    if activation == "prelu":
        y = prelu(v, slope)
    elif activation == "leaky":
        y = prelu(v, 0.01)
    elif activation == "speculator":
        y = (gamma + (1 - gamma) * sigmoid(beta * v)) * v
    else:
        y = v
    return v, y + offset


def dense_backward(dy, x, w, b, slope, beta, gamma, activation, offset):
    v, _ = dense_forward(x, w, b, slope, beta, gamma, activation, offset)
    g = {}
    if activation == "prelu":
        dv = dy * np.where(v > 0, 1, slope)
        g["slope"] = np.where(v > 0, 0, dy * v).sum(0)
    elif activation == "leaky":
        dv = dy * np.where(v > 0, 1, 0.01)
    elif activation == "speculator":
        s = sigmoid(beta * v)
        dv = dy * (gamma + (1 - gamma) * (s + beta * v * s * (1 - s)))
        g["beta"] = (dy * (1 - gamma) * s * (1 - s) * v * v).sum(0)
        g["gamma"] = (dy * (1 - s) * v).sum(0)
    else:
        dv = dy
    g.update(x=dv @ w, w=dv.T @ x, b=dv.sum(0))
    return g


ACTIVATIONS = dict(none=0, prelu=1, speculator=2, leaky=3)


def make_dense(rng):
    writer = Writer("dense")
    for name, n, i, o, activation, offset, scale in [
            ("one-by-one", 1, 1, 1, "none", 0, 1), ("none", 5, 7, 3, "none", 0, 1), ("prelu", 4, 9, 6, "prelu", 0, 1),
            ("speculator", 5, 6, 11, "speculator", 0, 1), ("speculator-offset", 3, 5, 8, "speculator", 1, 1),
            ("speculator-saturated", 3, 4, 6, "speculator", 1, 60), ("leaky", 5, 6, 9, "leaky", 0, 1),
            ("leaky-offset", 2, 3, 4, "leaky", 1, 1), ("none-offset", 2, 3, 4, "none", 1, 1),
            ("wide", 3, 37, 67, "speculator", 1, 1), ("many-rows", 70, 3, 5, "prelu", 0, 1)]:
        for _ in range(100):
            x = f32(rng.normal(size=(n, i)) * scale)
            w = f32(rng.normal(size=(o, i)) / np.sqrt(i))
            b = f32(rng.normal(size=o) * 0.3)
            slope = f32(rng.uniform(0.1, 0.9, o) * np.where(np.arange(o) % 2, -1, 1))
            beta = f32(1 + 0.3 * rng.normal(size=o))
            gamma = f32(0.2 * rng.normal(size=o))
            v, y = dense_forward(x, w, b, slope, beta, gamma, activation, offset)
            if np.abs(v).min() > MARGIN * scale or activation in ("none", "speculator"):
                break
        dy = f32(rng.normal(size=y.shape))
        inputs = dict(x=x, w=w, b=b, slope=slope, beta=beta, gamma=gamma)
        g = dense_backward(dy, *inputs.values(), activation, offset)
        check_gradients(lambda **p: (dense_forward(*(p[key] for key in inputs), activation, offset)[1] * dy).sum(), inputs, g, rng,
                        rtol=1e-5, atol=1e-7)
        used = dict(prelu=("slope",), speculator=("beta", "gamma")).get(activation, ())
        arrays = {key: inputs[key] for key in ("x", "w", "b") + used}
        arrays.update(v=v, y=y, dy=dy)
        arrays.update({"d" + key: g[key] for key in ("x", "w", "b") + used})
        writer.case(name, {"n": n, "in": i, "out": o, "activation": ACTIVATIONS[activation], "offset": offset}, arrays)
    writer.close()


# -------------------------------------------------------------------------------------------------------------- transformation

def rest_positions(wave_rest, wave_observed, z):
    """Covered pixels (closed interval), their left neighbours and weights of the right ones. On a node the left interval counts,
    as in the published code: the value is the same, the derivative is that interval's."""
    rest = wave_observed / (1 + z)
    covered = (rest >= wave_rest[0]) & (rest <= wave_rest[-1])
    j = np.clip(np.searchsorted(wave_rest, rest, side="left") - 1, 0, wave_rest.size - 2)
    return covered, j, (rest - wave_rest[j]) / (wave_rest[j + 1] - wave_rest[j])


def resample_forward(x, z, wave_rest, wave_observed):
    y = np.zeros((z.size, wave_observed.size))
    for n in range(z.size):
        covered, j, t = rest_positions(wave_rest, wave_observed, z[n])
        y[n] = np.where(covered, (1 - t) * x[n, j] + t * x[n, j + 1], 0)
    return y


def resample_backward(dy, x, z, wave_rest, wave_observed):
    dx, dz = np.zeros_like(x), np.zeros_like(z)
    for n in range(z.size):
        covered, j, t = rest_positions(wave_rest, wave_observed, z[n])
        g = np.where(covered, dy[n], 0)
        np.add.at(dx[n], j, g * (1 - t))
        np.add.at(dx[n], j + 1, g * t)
        slope = (x[n, j + 1] - x[n, j]) / (wave_rest[j + 1] - wave_rest[j])
        dz[n] = (g * slope * -wave_observed / (1 + z[n]) ** 2).sum()
    return dx, dz


def sdss_like(m, first=4000.0, last=6000.0):
    return f32(np.exp(np.linspace(np.log(first), np.log(last), m)))


def make_resample(rng):
    writer = Writer("resample")
    m = 41
    obs = sdss_like(m)
    full = f32(np.linspace(obs[0] / 1.5, obs[-1], 73))
    bent = np.sort(f32(obs[0] / 1.5 + (obs[-1] - obs[0] / 1.5) * np.sort(rng.uniform(0, 1, 58))))
    bent[0], bent[-1] = f32(obs[0] / 1.5), obs[-1]
    inner = f32(np.linspace(3700, 4800, 29))
    for name, n_grid, z in [
            ("uniform-grid", full, [0.03, 0.21, 0.4999]), ("one-spectrum", full, [0.1]),
            ("zero-redshift", full, [0.0, 0.45]),             # both ends of the closed interval at z = 0
            ("node-hit", f32(np.concatenate([full[full < obs[7]], obs[7:30:3], full[full > obs[29]]])), [0.0]),
            ("negative-redshift", full, [-0.003, -0.02]),     # the red end leaves the grid
            ("beyond-the-grid", full, [0.62, 0.1]),           # the blue end leaves it
            ("nonuniform-grid", bent, [0.07, 0.31, -0.001]),
            ("uncovered-both-ends", inner, [0.1, 0.3]), ("nothing-covered", inner, [2.5, 0.2, -0.6]),
            ("two-rest-pixels", f32(np.array([2500.0, 6100.0])), [0.05, 0.3])]:
        z = f32(z)
        for attempt in range(100):
            steps = np.diff(n_grid)
            assert (steps > 0).all()
            ok = True
            for value in z:
                covered, j, t = rest_positions(n_grid, obs, value)
                away = np.minimum(t, 1 - t)[covered] * steps[j][covered]
                away = away[away > 0] if value == 0 else away
                ok &= away.size == 0 or away.min() > 1e-4
            if ok:
                break
            z = f32(z + 1e-5 * (z != 0))
        assert ok, name
        x = f32(1 + 0.3 * rng.normal(size=(z.size, n_grid.size)))
        y = resample_forward(x, z, n_grid, obs)
        dy = f32(rng.normal(size=y.shape))
        dx, dz = resample_backward(dy, x, z, n_grid, obs)
        gradients = dict(x=dx) if (z == 0).any() else dict(x=dx, z=dz)
        check_gradients(lambda x, z: (resample_forward(x, z, n_grid, obs) * dy).sum(), dict(x=x, z=z), gradients, rng, h=1e-9,
                        rtol=1e-5, atol=1e-7)
        writer.case(name, dict(n=z.size, n_rest=n_grid.size, n_observed=m),
                    dict(wave_rest=n_grid, wave_observed=obs, z=z, x=x, y=y, dy=dy, dx=dx, dz=dz))
    writer.close()


def lsf_forward(x, kernel):
    half = kernel.size // 2
    padded = np.pad(x, ((0, 0), (half, half)))
    y = sum(kernel[j] * padded[:, j:j + x.shape[1]] for j in range(kernel.size))
    return y / kernel.sum()


def lsf_backward(dy, x, kernel):
    half, total = kernel.size // 2, kernel.sum()
    y = lsf_forward(x, kernel)
    padded = np.pad(x, ((0, 0), (half, half)))
    dpadded = np.zeros_like(padded)
    dkernel = np.zeros_like(kernel)
    for j in range(kernel.size):
        shifted = padded[:, j:j + x.shape[1]]
        dpadded[:, j:j + x.shape[1]] += dy * kernel[j] / total
        dkernel[j] = (dy * (shifted - y)).sum() / total
    return dpadded[:, half:half + x.shape[1]], dkernel


def make_lsf(rng):
    writer = Writer("lsf")
    for name, n, m, kernel in [
            ("delta", 2, 11, [0, 0, 1, 0, 0]), ("five", 3, 23, [0.06, 0.24, 0.4, 0.22, 0.08]),
            ("not-normalised", 1, 17, [0.3, 1.1, 0.2]), ("negative-wings", 2, 19, [-0.1, 0.2, 0.9, 0.3, -0.05]),
            ("array-as-long-as-kernel", 2, 5, [0.1, 0.2, 0.5, 0.3, 0.1]), ("one-pixel", 2, 9, [0.7]),
            ("eleven", 2, 31, list(rng.uniform(0.01, 0.3, 11)))]:
        kernel = f32(kernel)
        x = f32(1 + 0.5 * rng.normal(size=(n, m)))
        y = lsf_forward(x, kernel)
        dy = f32(rng.normal(size=y.shape))
        dx, dkernel = lsf_backward(dy, x, kernel)
        check_gradients(lambda x, kernel: (lsf_forward(x, kernel) * dy).sum(), dict(x=x, kernel=kernel),
                        dict(x=dx, kernel=dkernel), rng)
        writer.case(name, dict(n=n, n_observed=m, size=kernel.size),
                    dict(kernel=kernel, x=x, y=y, dy=dy, dx=dx, dkernel=dkernel))
    writer.close()


# ------------------------------------------------------------------------------------------------------------------- resolution

def resolution_matrix(band, knots, m):
    """The dense matrix (m, m) of bands (knots, size) given at pixels `knots` and linear between them."""
    size, matrix = band.shape[1], np.zeros((m, m))
    for i in range(m):
        j = min(np.searchsorted(knots, i, side="right") - 1, len(knots) - 2)
        t = f32([(i - knots[j]) / (knots[j + 1] - knots[j])])[0]
        for k in range(size):
            if 0 <= i + k - size // 2 < m:
                matrix[i, i + k - size // 2] = (1 - t) * band[j, k] + t * band[j + 1, k]
    return matrix


def make_resolution(rng):
    writer = Writer("resolution")
    for name, n, share, m, size, step in [
            ("every-pixel", 3, 1, 23, 5, 1), ("ends-only", 2, 1, 31, 3, 64), ("short-end", 3, 1, 67, 11, 16), ("even-end", 2, 1, 33, 7, 8),
            ("one-diagonal", 2, 1, 9, 1, 4), ("array-shorter-than-band", 2, 1, 5, 11, 2),
            ("two-pixels", 1, 1, 2, 3, 1), ("directions", 6, 3, 29, 7, 10), ("many", 2, 2, 700, 11, 3)]:
        knots = np.array(sorted(set(range(0, m, step)) | {m - 1}))
        band = f32(rng.normal(size=(n // share, knots.size, size)) / size)
        matrices = [resolution_matrix(band[i // share], knots, m) for i in range(n)]
        x, dy = f32(1 + 0.5 * rng.normal(size=(n, m))), f32(rng.normal(size=(n, m)))
        forward = lambda x: np.stack([matrices[i] @ x[i] for i in range(n)])
        dx = np.stack([matrices[i].T @ dy[i] for i in range(n)])
        check_gradients(lambda x: (forward(x) * dy).sum(), dict(x=x), dict(x=dx), rng)
        writer.case(name, dict(n=n, share=share, n_observed=m, size=size, step=step),
                    dict(band=band, x=x, y=forward(x), dy=dy, dx=dx))
    writer.close()


# ------------------------------------------------------------------------------------------------------------------------- loss

def weighted(wave_rest, wave_observed, z, lsf):
    """Pixels that count: covered, and no pixel of the LSF's footprint inside the array is uncovered."""
    rest = wave_observed / (1 + z)
    covered = (rest >= wave_rest[0]) & (rest <= wave_rest[-1])
    half, m = lsf // 2, covered.size
    return np.array([covered[max(0, i - half):min(m, i + half + 1)].all() for i in range(m)])


def loss_forward(model, flux, ivar, z, wave_rest, wave_observed, lsf):
    use = np.stack([weighted(wave_rest, wave_observed, value, lsf) for value in z])
    m = wave_observed.size
    return np.where(use, ivar * (flux - model) ** 2, 0).sum(1) / (2 * m), np.where(use, ivar * (model - flux), 0) / (m * z.size)


def make_loss(rng):
    writer = Writer("loss")
    m = 37
    obs = sdss_like(m)
    full = f32(np.linspace(obs[0] / 1.5, obs[-1], 53))
    inner = f32(np.linspace(3700, 4800, 29))
    for name, grid, z, lsf in [
            ("covered", full, [0.1, 0.3], 0), ("one-spectrum", full, [0.2], 0), ("zero-redshift", full, [0.0], 5),
            ("negative-redshift", full, [-0.01, -0.04, 0.1], 0), ("negative-redshift-lsf", full, [-0.01, -0.04, 0.1], 5),
            ("both-ends", inner, [0.1, 0.3], 0), ("both-ends-lsf", inner, [0.1, 0.3], 5),
            ("nothing-covered", inner, [2.5, 0.1], 3), ("fewer-than-the-footprint", inner, [0.62, -0.22, 0.2], 11)]:
        z = f32(z)
        flux, model = f32(1 + 0.3 * rng.normal(size=(z.size, m))), f32(1 + 0.1 * rng.normal(size=(z.size, m)))
        ivar = f32(rng.uniform(0.5, 30, (z.size, m)) * (rng.uniform(size=(z.size, m)) > 0.2))
        flux = np.where(ivar == 0, f32(rng.normal(size=flux.shape) * 50), flux)  # finite flux under a mask is left as it is
        loss, dmodel = loss_forward(model, flux, ivar, z, grid, obs, lsf)
        check_gradients(lambda model: loss_forward(model, flux, ivar, z, grid, obs, lsf)[0].mean(), dict(model=model),
                        dict(model=dmodel), rng)
        writer.case(name, dict(n=z.size, n_rest=grid.size, n_observed=m, lsf=lsf),
                    dict(wave_rest=grid, wave_observed=obs, z=z, flux=flux, ivar=ivar, model=model, loss=loss, dmodel=dmodel))
    writer.close()


# ------------------------------------------------------------------------------------------------------------------- calibration

def calibrate_forward(x, flux, ivar, z, sd, wave_rest, wave_observed, lsf):
    """Weighted least squares with expectations 1, 0, 0 ... of the coefficients: these, the calibrated model, the polynomials over the
    pixels, the penalty and the sum that is minimised."""
    use = np.stack([weighted(wave_rest, wave_observed, value, lsf) for value in z])
    w, m, terms = np.where(use, ivar, 0), x.shape[1], len(sd)
    basis = np.polynomial.legendre.legvander(np.linspace(-1, 1, m), terms - 1)
    expected, precision = np.eye(terms)[0], np.array(sd) ** -2.0
    c = np.stack([np.linalg.solve((basis.T * (w[i] * x[i] ** 2)) @ basis + np.diag(precision),
                                  (basis.T * (w[i] * x[i])) @ flux[i] + precision * expected) for i in range(z.size)])
    q = c @ basis.T
    penalty = ((c - expected) ** 2 * precision).sum(1)
    return c, q * x, q, penalty, (w * (flux - q * x) ** 2).sum(1) + penalty, w


def make_calibrate(rng):
    writer = Writer("calibrate")
    m = 41
    obs = sdss_like(m)
    full = f32(np.linspace(obs[0] / 1.5, obs[-1], 53))
    inner = f32(np.linspace(3700, 4800, 29))
    for name, grid, z, lsf, sd in [("amplitude", full, [0.1, 0.3], 0, [1.0]), ("one-spectrum", full, [0.2], 0, [0.1]),
                                   ("four-terms", full, [0.1, 0.3, 0.2], 3, [1.0, 0.2, 0.2, 0.1]),
                                   ("six-terms", full, [0.15], 0, [10.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
                                   ("both-ends", inner, [0.1, 0.3], 5, [0.5, 0.5]), ("nothing-covered", inner, [2.5, 0.1], 3, [1.0, 0.3])]:
        z = f32(z)
        x = f32(1 + 0.3 * rng.normal(size=(z.size, m)))
        flux = f32(x * (1.4 + 0.3 * np.linspace(-1, 1, m)) + 0.1 * rng.normal(size=x.shape))
        ivar = f32(rng.uniform(0.5, 30, x.shape) * (rng.uniform(size=x.shape) > 0.2))
        c, y, q, penalty, _, w = calibrate_forward(x, flux, ivar, z, sd, grid, obs, lsf)
        dy = 2 * w * (y - flux)
        check_gradients(lambda x: calibrate_forward(x, flux, ivar, z, sd, grid, obs, lsf)[4].sum(), dict(x=x), dict(x=q * dy), rng)
        dy = f32(dy)
        writer.case(name, dict(n=z.size, n_rest=grid.size, n_observed=m, lsf=lsf, terms=len(sd)),
                    dict(wave_rest=grid, wave_observed=obs, z=z, flux=flux, ivar=ivar, x=x, sd=np.array(sd), coefficient=c, penalty=penalty,
                         y=y, dy=dy, dx=q * dy))
    writer.close()


# --------------------------------------------------------------------------------------------------------------------- optimiser

def make_adam(rng):
    """Kingma & Ba 2015, algorithm 1, in the form of its section 2's bias corrections."""
    writer = Writer("adam")
    for name, count, steps, rate, beta1 in [("three-steps", 37, 3, 1e-3, 0.9), ("one", 1, 2, 0.1, 0.85),
                                            ("large-rate", 20, 5, 0.05, 0.95)]:
        beta2, epsilon = 0.999, 1e-8
        p = f32(rng.normal(size=count))
        gradient = f32(rng.normal(size=(steps, count)) * 10.0 ** rng.integers(-5, 3, count))
        gradient[:, 0] = 0 if count > 1 else gradient[:, 0]
        m, v, trace = np.zeros(count), np.zeros(count), []
        start = p
        for t in range(1, steps + 1):
            m = beta1 * m + (1 - beta1) * gradient[t - 1]
            v = beta2 * v + (1 - beta2) * gradient[t - 1] ** 2
            p = p - rate * (m / (1 - beta1 ** t)) / (np.sqrt(v / (1 - beta2 ** t)) + epsilon)
            trace.append(p)
        writer.case(name, dict(count=count, steps=steps, rate=rate, beta1=beta1, beta2=beta2, epsilon=epsilon),
                    dict(parameters=start, gradient=gradient, want=np.array(trace), m=m, v=v))
    writer.close()


def one_cycle(step, total, rate, stage=1):
    """Smith & Topin 2018 as PyTorch's OneCycleLR: 30 % up, cosine, from rate/25 to rate to rate/25/1e4."""
    t, total = step // stage, (total + stage - 1) // stage
    top, last = 0.3 * total - 1, total - 1

    def cosine(a, b, fraction):
        return b + (a - b) / 2 * (1 + np.cos(np.pi * fraction))

    if t <= top:
        return cosine(rate / 25, rate, t / top), cosine(0.95, 0.85, t / top)
    fraction = (t - top) / (last - top)
    return cosine(rate, rate / 25 / 1e4, fraction), cosine(0.85, 0.95, fraction)


def make_schedule():
    writer = Writer("schedule")
    for name, total, stage, rate in [("per-step", 100, 1, 1e-3), ("per-step-odd", 37, 1, 0.01), ("per-epoch", 400, 8, 1e-3)]:
        steps = np.arange(total)
        values = np.array([one_cycle(s, total, rate, stage) for s in steps])
        assert abs(values[:, 0].max() - rate) < 0.1 * rate and abs(values[-1, 0] / (rate / 25e4) - 1) < 1e-9
        writer.case(name, dict(total=total, steps_per_stage=stage, rate=rate), dict(rates=values[:, 0], beta1=values[:, 1]))
    writer.close()


def main():
    make_blocks(np.random.default_rng(20221114))
    make_attend(np.random.default_rng(3))
    make_dense(np.random.default_rng(4))
    make_resample(np.random.default_rng(5))
    make_lsf(np.random.default_rng(6))
    make_resolution(np.random.default_rng(13))
    make_loss(np.random.default_rng(7))
    invariance_vectors.make_similarity(Writer("similarity"), np.random.default_rng(9))
    invariance_vectors.make_consistency(Writer("consistency"), np.random.default_rng(10))
    invariance_vectors.make_augment(Writer("augment"), np.random.default_rng(11), sdss_like(61))
    make_calibrate(np.random.default_rng(12))
    make_adam(np.random.default_rng(8))
    make_schedule()


if __name__ == "__main__":
    main()
