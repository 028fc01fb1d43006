"""Reads what spender writes, with astropy, safetensors and numpy: python3 read-results.py FOLDER

FOLDER has latents.fits (of predict(path = ), with latents, losses and covariances, and the column class), survey.fits (of write_survey())
and model.safetensors (of write_model()). What was read is printed as JSON. The parts between marks are vignette("python").
"""
import json
import os
import sys

os.chdir(sys.argv[1])

## ---- latents
import numpy as np
from astropy.table import Table

table = Table.read("latents.fits", hdu="RESULTS")
ids = [str(name) for name in table["ID"]]
latents = np.asarray(table["LATENT"], float)     # n x S, NaN where there is no result
losses = np.asarray(table["LOSS"], float)
galaxies = table["class"] == "GALAXY"            # a column of keep =

## ---- covariances
packed = np.asarray(table["COVARIANCE"], float)  # the lower triangles, row by row
size = latents.shape[1]
row, column = np.tril_indices(size)
covariances = np.empty((len(table), size, size))
covariances[:, row, column] = packed
covariances[:, column, row] = packed
errors = np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))

## ---- survey
from astropy.io import fits

with fits.open("survey.fits") as survey:
    wave = survey["WAVELENGTH"].data             # Angstrom, vacuum
    spectra = survey["SPECTRA"].data             # read when needed: surveys may be larger than memory
    norm = np.asarray(spectra["NORM"], float)
    flux = spectra["FLUX"][0] * norm[0]          # of the first one, in the survey's units
    ivar = spectra["IVAR"][0] / norm[0] ** 2     # 0 where a pixel is masked

## ---- model
from safetensors import safe_open

with safe_open("model.safetensors", "np") as model:
    weights = {name: model.get_tensor(name) for name in model.keys()}
    facts = model.metadata()
architecture = json.loads(facts["architecture"])
history = json.loads(facts["history"])
wave_rest = weights["decoder.wave_rest"]

## ---- decode
def decode(latents):
    """Restframe spectra of latents, normalised: decode(fit, s) of R, for a decoder with Speculator activations."""
    layers = sorted({int(name.split(".")[2]) for name in weights if name.startswith("decoder.mlp.") and name.endswith(".bias")})
    y = latents
    for layer in layers:
        of = lambda name: weights[f"decoder.mlp.{name}"].astype(float)
        y = y @ of(f"{layer}.weight").T + of(f"{layer}.bias")
        beta, gamma = of(f"{layer + 1}.beta"), of(f"{layer + 1}.gamma")
        y = (gamma + (1 - gamma) / (1 + np.exp(-beta * y))) * y
    return y + architecture["decoder_offset"]

rest = decode(latents)                           # n x R, on wave_rest

## ---- end
def plain(values):
    return np.asarray(values, float).tolist()

print(json.dumps({
    "ids": ids, "latents": plain(latents), "losses": plain(losses), "galaxies": [bool(value) for value in galaxies],
    "covariances": plain(covariances), "errors": plain(errors), "wave": plain(wave), "norm": plain(norm), "flux": plain(flux),
    "ivar": plain(ivar), "weights": {name: [list(value.shape), float(value.astype(float).sum())] for name, value in weights.items()},
    "validation_loss": history["validation_loss"], "wave_rest": plain(wave_rest), "rest": plain(rest),
}))
