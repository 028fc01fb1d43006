#!/usr/bin/env python3
"""PyTorch on a GPU: the network of peer.py in one variant, spectra per second as one line of JSON.

    gpu_peer.py train|encode BATCH PRECISION LAYOUT HOW [sr]

PRECISION: fp32, tf32, bf16 or fp16 (autocast; fp16 with a gradient scaler). LAYOUT: plain (Conv1d) or channels-last (the same
convolutions as Conv2d of height 1). HOW: eager or compiled.
    gpu_peer.py ceilings      rates of a product of 8192 x 8192 matrices in each precision, and of a copy
"""
import json
import sys
import time

import torch
from torch import nn

from peer import Autoencoder, sdss_grids


class Flat(nn.Module):
    """A Conv1d block as Conv2d of height 1, whose tensors can be channels-last."""

    def __init__(self, block):
        super().__init__()
        conv, _, activation = block[0], block[1], block[2]
        self.conv = nn.Conv2d(conv.in_channels, conv.out_channels, (1, conv.kernel_size[0]), padding=(0, conv.padding[0]))
        with torch.no_grad():
            self.conv.weight.copy_(conv.weight[:, :, None])
            self.conv.bias.copy_(conv.bias)
        self.norm = nn.InstanceNorm2d(conv.out_channels)
        self.activation = activation
        self.pool = nn.MaxPool2d((1, block[3].kernel_size), padding=(0, block[3].padding)) if len(block) > 3 else nn.Identity()

    def forward(self, x):
        return self.pool(self.activation(self.norm(self.conv(x))))


class FlatEncoder(nn.Module):
    def __init__(self, encoder):
        super().__init__()
        self.blocks = nn.Sequential(*(Flat(b) for b in (encoder.conv1, encoder.conv2, encoder.conv3)))
        self.features, self.mlp = encoder.features, encoder.mlp

    def forward(self, flux, z):
        x = self.blocks(flux[:, None, None].contiguous(memory_format=torch.channels_last))[:, :, 0]
        h, k = x[:, :self.features], x[:, self.features:]
        return self.mlp(torch.cat(((h * torch.softmax(k, -1)).sum(-1), z[:, None]), 1))


def rate(step, batch, rounds=5, steps=10):
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
        seconds.append((time.perf_counter() - start) / steps)
    return batch / sorted(seconds)[rounds // 2]


def measure(mode, batch, precision, layout, how, sr):
    torch.manual_seed(1)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "fp32"
    model = Autoencoder(*sdss_grids(11762 if sr else 5881), lsf=5 if sr else 0)
    if layout == "channels-last":
        model.encoder = FlatEncoder(model.encoder).to(memory_format=torch.channels_last)
    model = model.cuda()
    flux, ivar, z = 0.5 + torch.rand(batch, 3921).cuda(), 10 * torch.rand(batch, 3921).cuda(), 0.45 * torch.rand(batch).cuda()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    scaler = torch.amp.GradScaler("cuda", enabled=precision == "fp16")
    types = {"bf16": torch.bfloat16, "fp16": torch.float16}

    def autocast():
        return torch.autocast("cuda", dtype=types.get(precision, torch.bfloat16), enabled=precision in types)

    run = model.losses if mode == "train" else model.encoder
    if how == "compiled":
        run = torch.compile(run)

    def train():
        optimiser.zero_grad(set_to_none=True)
        with autocast():
            loss = run(flux, ivar, z).mean()
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()

    def encode():
        with torch.inference_mode(), autocast():
            run(flux, z)

    return rate(train if mode == "train" else encode, batch)


def ceilings():
    n, found = 8192, {}
    for name, kind, tf32 in (("fp32", torch.float32, False), ("tf32", torch.float32, True), ("fp16", torch.float16, True),
                             ("bf16", torch.bfloat16, True)):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = torch.randn(n, n, device="cuda", dtype=kind), torch.randn(n, n, device="cuda", dtype=kind)
        found[name + " TFLOP/s"] = 2e-12 * n ** 3 * rate(lambda: a @ b, 1, 3, 5)
    x = torch.empty(1 << 30, device="cuda", dtype=torch.float32)
    y = torch.empty_like(x)
    found["copy TB/s"] = 8e-12 * x.numel() * rate(lambda: y.copy_(x), 1, 3, 5)
    return found


if __name__ == "__main__":
    if sys.argv[1:] == ["ceilings"]:
        print(json.dumps({"ceilings": ceilings(), "gpu": torch.cuda.get_device_name(), "pytorch": torch.__version__}))
    elif len(sys.argv) in (6, 7) and sys.argv[1] in ("train", "encode"):
        mode, batch, precision, layout, how = sys.argv[1:6]
        found = measure(mode, int(batch), precision, layout, how, sys.argv[6:] == ["sr"])
        print(json.dumps({"who": "PyTorch", "mode": mode, "batch": int(batch), "precision": precision,
                          "what": f"{layout}, {how}", "grid": "SR" if sys.argv[6:] else "LR", "rate": round(found)}), flush=True)
    else:
        sys.exit(__doc__)
