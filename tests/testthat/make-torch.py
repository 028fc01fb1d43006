"""Writes small files in the layouts of the published models: python3 make-torch.py FOLDER

Needs torch and numpy, and nflows for the density of latents; the files in torch/ are from torch 2.15, numpy 2.4 and nflows 0.14.
Number i of tensor t of a model is ((2654435761 i + 40503 t) mod 2^24) / 2^23 - 1, in the tensor's type; i counts from 0, t from 1, without
grids and masks.
"""
import collections
import os
import sys
import numpy
import torch
from torch import nn

folder = sys.argv[1]


class Speculator(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.beta, self.gamma = nn.Parameter(torch.zeros(n)), nn.Parameter(torch.zeros(n))


class Instrument(nn.Module):
    def __init__(self, wave, lsf=0):
        super().__init__()
        self.lsf = nn.Conv1d(1, 1, lsf, bias=False) if lsf else None
        self.register_buffer("wave_obs", wave)
        self.register_buffer("skyline_mask", wave > 5000)


class MLP(nn.Sequential):
    def __init__(self, sizes, act):
        layers = []
        for i in range(len(sizes) - 1):
            layers += [nn.Linear(sizes[i], sizes[i + 1]), act(sizes[i + 1], i == len(sizes) - 2), nn.Dropout(0)]
        super().__init__(*layers)


class Encoder(nn.Module):
    def __init__(self, instrument, n_latent, n_aux):
        super().__init__()
        self.instrument = instrument
        self.conv1, self.conv2, self.conv3 = (
            nn.Sequential(nn.Conv1d(a, b, k, padding=k // 2), nn.InstanceNorm1d(b), nn.PReLU(b), nn.Dropout(0))
            for a, b, k in ((1, 4, 5), (4, 6, 11), (6, 8, 21)))
        self.mlp = MLP((4 + n_aux, 5, 4, n_latent), lambda n, last: nn.Identity() if last else nn.PReLU(n))


class Decoder(nn.Module):
    def __init__(self, wave_rest, n_latent, act):
        super().__init__()
        self.mlp = MLP((n_latent, 3, 5, len(wave_rest)), act)
        self.register_buffer("wave_rest", wave_rest)


class Autoencoder(nn.Module):
    def __init__(self, instrument, wave_rest, n_latent, n_aux=0, act=lambda n, last: Speculator(n)):
        super().__init__()
        self.encoder, self.decoder = Encoder(instrument, n_latent, n_aux), Decoder(wave_rest, n_latent, act)


def leaky(n, last):
    return nn.LeakyReLU()


def filled(model):
    state = model.state_dict()
    for t, tensor in enumerate(tensor for name, tensor in state.items() if "wave" not in name and "mask" not in name):
        i = numpy.arange(tensor.numel(), dtype=numpy.int64)
        values = ((2654435761 * i + 40503 * (t + 1)) % 2**24) / 2**23 - 1
        tensor.copy_(torch.from_numpy(values).reshape(tensor.shape))
    return state


def save(what, name):
    torch.save(what, os.path.join(folder, name))


def grid(n, first=4000.0, last=6000.0, dtype=torch.float32):
    return torch.linspace(first, last, n, dtype=dtype)


# paper I: the encoder sees the redshift, its layers are one level deeper, and the instrument's grid is not in the file
old = filled(Autoencoder(Instrument(grid(60), lsf=5), grid(70, 2600), 3, n_aux=1))
old = collections.OrderedDict((name.replace("encoder.mlp", "encoder.mlp.mlp"), tensor) for name, tensor in old.items()
                              if "wave_obs" not in name and "skyline" not in name)
save({"model": old, "losses": [(0.5, 0.625), (0.25, 0.375)]}, "sdss-I.pt")

# paper II: a list with one model, losses as an array
new = filled(Autoencoder(Instrument(10 ** torch.arange(3.578, 3.97, 0.0001)), grid(70, 2359, 9332), 2))
save({"model": [new], "losses": numpy.zeros((2, 1, 4, 3))}, "sdss-II.pt")

# DESI: leaky ReLU, double-precision grid
save({"model": filled(Autoencoder(Instrument(grid(61, dtype=torch.float64)), grid(70, 2000), 2, act=leaky)),
      "losses": numpy.ones((2, 4, 3))}, "desi.pt")

# five instruments with one decoder, an optimizer's state, numpy numbers and tensors of other types beside them
five = [Autoencoder(Instrument(grid(60 + i, dtype=torch.float64 if i == 3 else torch.float32)), grid(70, 2000), 2) for i in range(5)]
for model in five[1:]:
    model.decoder = five[0].decoder
optimizer = torch.optim.Adam(five[0].parameters())
sum(p.sum() for p in five[0].parameters()).backward()
optimizer.step()
states = tuple(filled(model) for model in five)
states[2]["encoder.conv1.0.weight"] = states[2]["encoder.conv1.0.weight"].half()
states[2]["encoder.conv2.0.weight"] = states[2]["encoder.conv2.0.weight"].bfloat16()
states[2]["encoder.conv3.0.weight"] = states[2]["encoder.conv3.0.weight"].transpose(0, 2).contiguous().transpose(0, 2)
states[2]["encoder.mlp.0.bias"] = states[2]["encoder.mlp.0.bias"].double()
save({"model": states, "optimizer": optimizer.state_dict(), "best": numpy.float64(0.5), "epoch": 2**40, "empty": numpy.zeros(0)}, "five.pt")

try:
    from nflows import distributions, flows, transforms
except ImportError:
    sys.exit()
torch.manual_seed(1)
layers = [transforms.CompositeTransform([
    transforms.MaskedAffineAutoregressiveTransform(3, 8, num_blocks=2, use_residual_blocks=False, activation=torch.tanh),
    transforms.RandomPermutation(3)]) for _ in range(2)]
layers = transforms.CompositeTransform([transforms.AffineTransform(torch.zeros(3), torch.full((3,), 20.0)),
                                        transforms.CompositeTransform(layers)])
flow = flows.Flow(layers, distributions.StandardNormal((3,)))
save(flow.state_dict(), "flow.pt")
points = torch.tensor([[0.0, 0.0, 0.0], [0.01, -0.02, 0.03], [0.1, 0.05, -0.1], [-0.3, 0.2, 0.1]], dtype=torch.float64)
print(*flow.double().log_prob(points).tolist())
