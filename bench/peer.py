#!/usr/bin/env python3
"""The same network in PyTorch, written from the equations: the peer of the comparison, and a check that it is the same network.

    peer.py worker train|encode|reconstruct THREADS BATCH [sr] [small] [compiled] [bf16]
                                                 as bench.c: a number of steps on stdin, their seconds on stdout; compiled by
                                                 torch.compile, in autocast to bf16
    peer.py verify FOLDER                        against FOLDER/tiny.safetensors (float64); prints the largest differences
"""
import json
import resource
import struct
import sys
import time

import numpy as np
import torch
from torch import nn


class Speculator(nn.Module):
    def __init__(self, units):
        super().__init__()
        self.beta = nn.Parameter(torch.ones(units))
        self.gamma = nn.Parameter(torch.zeros(units))

    def forward(self, x):
        return (self.gamma + (1 - self.gamma) * torch.sigmoid(self.beta * x)) * x


def block(inputs, outputs, kernel, pool):
    layers = [nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2), nn.InstanceNorm1d(outputs), nn.PReLU(outputs)]
    if pool > 1:
        layers.append(nn.MaxPool1d(pool, padding=pool // 2))
    return nn.Sequential(*layers)


def perceptron(sizes, activation, activate_last):
    """Every third place holds a linear layer; the place of a dropout stays empty."""
    layers = []
    for i, (inputs, outputs) in enumerate(zip(sizes, sizes[1:])):
        layers.append(nn.Linear(inputs, outputs))
        if activate_last or i + 2 < len(sizes):
            layers += [activation(outputs), nn.Identity()]
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    def __init__(self, latents, filters, kernels, pools, hidden):
        super().__init__()
        widths = [1, *filters]
        for i in range(3):
            setattr(self, f"conv{i + 1}", block(widths[i], widths[i + 1], kernels[i], pools[i]))
        self.features = filters[2] // 2
        self.mlp = perceptron([self.features + 1, *hidden, latents], nn.PReLU, False)

    def forward(self, flux, z):
        x = self.conv3(self.conv2(self.conv1(flux[:, None])))
        h, k = x[:, :self.features], x[:, self.features:]
        e = (h * torch.softmax(k, -1)).sum(-1)
        return self.mlp(torch.cat((e, z[:, None]), 1))


class Decoder(nn.Module):
    def __init__(self, latents, n_rest, hidden):
        super().__init__()
        self.mlp = perceptron([latents, *hidden, n_rest], Speculator, True)

    def forward(self, s):
        return 1 + self.mlp(s)


class Autoencoder(nn.Module):
    def __init__(self, wave_obs, wave_rest, latents=6, filters=(128, 256, 512), kernels=(5, 11, 21), pools=(5, 11, 1),
                 encoder_hidden=(128, 64, 32), decoder_hidden=(64, 256, 1024), lsf=0):
        super().__init__()
        self.register_buffer("wave_obs", wave_obs)
        self.register_buffer("wave_rest", wave_rest)
        self.encoder = Encoder(latents, filters, kernels, pools, encoder_hidden)
        self.decoder = Decoder(latents, len(wave_rest), decoder_hidden)
        self.lsf = nn.Parameter(torch.eye(lsf)[lsf // 2][None, None]) if lsf else None

    def observe(self, rest, z):
        """Linear interpolation at wave_obs / (1 + z); uniform or not, the grid is searched. The LSF, then weights of coverage."""
        wave = self.wave_obs / (1 + z[:, None])
        right = torch.searchsorted(self.wave_rest, wave).clamp(1, len(self.wave_rest) - 1)
        low, high = self.wave_rest[right - 1], self.wave_rest[right]
        t = (wave - low) / (high - low)
        covered = (wave >= self.wave_rest[0]) & (wave <= self.wave_rest[-1])
        y = torch.where(covered, (1 - t) * rest.gather(1, right - 1) + t * rest.gather(1, right), torch.zeros_like(t))
        if self.lsf is not None:
            y = nn.functional.conv1d(y[:, None], self.lsf / self.lsf.sum(), padding=self.lsf.shape[-1] // 2)[:, 0]
        return y, covered

    def losses(self, flux, ivar, z):
        y, covered = self.observe(self.decoder(self.encoder(flux, z)), z)
        return (torch.where(covered, ivar, torch.zeros_like(ivar)) * (flux - y) ** 2).sum(1) / (2 * flux.shape[1])


def sdss_grids(n_rest):
    wave_obs = (10 ** (3.578 + 1e-4 * np.arange(3921))).astype(np.float32)
    wave_rest = np.linspace(float(wave_obs[0]) / 1.5, float(wave_obs[-1]), n_rest).astype(np.float32)
    return torch.from_numpy(wave_obs), torch.from_numpy(wave_rest)


class StageClock:
    """Seconds by stage: forward from hooks around the modules, backward from hooks on the gradients that pass between them."""

    def __init__(self, model):
        self.seconds, self.started, self.mark = {}, {}, None
        encoder = model.encoder
        for name, module in (("stem", encoder.conv1), ("block2", encoder.conv2), ("block3", encoder.conv3), ("dense", encoder.mlp),
                             ("dense", model.decoder.mlp)):
            module.register_forward_pre_hook(lambda m, x, name=name: self.started.__setitem__(name, time.perf_counter()))
            module.register_forward_hook(lambda m, x, y, name=name: self.add(name + " forward", time.perf_counter() - self.started[name]))
            module.register_full_backward_pre_hook(lambda m, g, name=name: self.started.__setitem__(name, time.perf_counter()))
            if name == "stem":  # its input needs no gradient, so the hook would fire early: it lasts until the step's end
                continue
            module.register_full_backward_hook(lambda m, gi, go, name=name: self.add(name + " backward",
                                                                                     time.perf_counter() - self.started[name]))

    def add(self, name, seconds):
        self.seconds[name] = self.seconds.get(name, 0) + seconds


def worker(mode, threads, batch, options):
    sr = "sr" in options
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    model = Autoencoder(*sdss_grids(11762 if sr else 5881), lsf=5 if sr else 0,
                        filters=(16, 32, 64) if "small" in options else (128, 256, 512))
    flux, ivar = 0.5 + torch.rand(4 * batch, 3921), 10 * torch.rand(4 * batch, 3921)
    z = 0.45 * torch.rand(4 * batch)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)

    def reconstruct(flux, z):
        return model.observe(model.decoder(model.encoder(flux, z)), z)

    compiled = torch.compile if "compiled" in options else lambda function: function
    losses, infer = compiled(model.losses), compiled(model.encoder if mode == "encode" else reconstruct)

    def autocast():
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled="bf16" in options)

    def step(rows):
        if mode != "train":
            with torch.inference_mode(), autocast():
                infer(flux[rows], z[rows])
            return
        optimiser.zero_grad(set_to_none=True)
        with autocast():
            loss = losses(flux[rows], ivar[rows], z[rows]).mean()
        loss.backward()
        if clock and "stem" in clock.started:
            clock.add("stem backward", time.perf_counter() - clock.started["stem"])
        before = time.perf_counter()
        optimiser.step()
        if clock:
            clock.add("adam", time.perf_counter() - before)

    clock = None
    for line in sys.stdin:
        if line.startswith("end"):
            break
        stages = line.startswith("stages ")
        if stages and not clock:
            clock = StageClock(model)
        start = time.perf_counter()
        for i in range(int(line.split()[-1])):
            step(slice(i % 4 * batch, (i % 4 + 1) * batch))
        if stages:
            print(", ".join(f"{name} {seconds:.6f}" for name, seconds in clock.seconds.items()), flush=True)
            clock.seconds.clear()
        else:
            print("%.6f" % (time.perf_counter() - start), flush=True)
    print("%.1f" % (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024), flush=True)


def read_safetensors(path):
    with open(path, "rb") as f:
        content = f.read()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:8 + size])
    types = {"F32": np.float32, "F64": np.float64}
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            array = np.frombuffer(content[8 + size + begin:8 + size + end], types[entry["dtype"]])
            tensors[name] = torch.from_numpy(array.reshape(entry["shape"]).astype(np.float64))
    return tensors


def verify(folder):
    t = read_safetensors(folder + "/tiny.safetensors")
    torch.set_default_dtype(torch.float64)
    model = Autoencoder(t["input.wave_obs"], t["input.wave_rest"], 3, (8, 16, 32), encoder_hidden=(12, 8, 6), decoder_hidden=(8, 16, 24),
                        lsf=5).double()
    parameters = {name.replace("encoder.instrument.lsf.weight", "lsf"): p for name, p in
                  ((key[7:], value) for key, value in t.items() if key.startswith("weight."))}
    model.load_state_dict({**parameters, "wave_obs": t["input.wave_obs"], "wave_rest": t["input.wave_rest"]})
    flux, ivar, z = t["input.flux"], t["input.ivar"], t["input.z"]
    worst = {}
    latent = model.encoder(flux, z)
    rest = model.decoder(latent)
    observed, _ = model.observe(rest, z)
    losses = model.losses(flux, ivar, z)
    losses.mean().backward()
    for name, value in [("latent", latent), ("rest", rest), ("observed", observed), ("loss_individual", losses)]:
        want = t["output." + name]
        worst[name] = ((value - want).abs() / (1 + want.abs())).max().item()
    gradients = []
    for name, p in model.named_parameters():
        want = t["grad." + ("encoder.instrument.lsf.weight" if name == "lsf" else name)]
        if want.norm() > 1e-9:
            gradients.append(((p.grad - want).norm() / want.norm()).item())
    worst["gradients"] = max(gradients)
    print(" ".join(f"{name} {value:.2g}" for name, value in worst.items()))
    if max(worst.values()) > 1e-5:
        sys.exit("this is not the same network")


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"] and len(sys.argv) > 4 and {*sys.argv[5:]} <= {"sr", "small", "compiled", "bf16"}:
        worker(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
    elif sys.argv[1:2] == ["verify"] and len(sys.argv) == 3:
        verify(sys.argv[2])
    else:
        sys.exit(__doc__)
