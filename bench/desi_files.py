"""Files as DESI's healpix coadds are, for bench/read-desi.R: python3 desi_files.py FOLDER [rows] [files] [rows of the file with matrices]

Writes coadd-made-up-<i>.fits (masks compressed by RICE_1 in tiles of a row) and coadd-plain-1.fits (masks as they are in DESI's releases:
int32 with BZERO 2^31, not compressed), of 5,000 rows each, coadd-matrices-1.fits of 500 rows with resolution matrices, and a redrock file
beside each. Arms have DESI's pixels; spectra are noise on a continuum; 0.3 % of pixels are masked, in runs.
"""

import os
import sys

import numpy as np
from astropy.io import fits

ARMS = {"B": (0, 2751), "R": (2700, 2326), "Z": (4900, 2881)}  # first pixel and number of pixels of 0.8 Angstrom, from 3600


def image(name, data):
    return fits.ImageHDU(data, name=name)


def mask_of(rng, shape):
    mask = np.zeros(shape, dtype="u4")
    n = max(1, int(mask.size * 0.003 / 5))
    rows, at = rng.integers(0, shape[0], n), rng.integers(0, shape[1] - 5, n)
    bits = 2 ** rng.integers(0, 11, n)
    for k in range(5):
        mask[rows, at + k] |= bits.astype("u4")
    return mask


def fibermap(rng, ids):
    n = len(ids)
    columns = [("TARGETID", "K", ids), ("OBJTYPE", "3A", np.full(n, "TGT")), ("COADD_FIBERSTATUS", "J", np.zeros(n)),
               ("TARGET_RA", "D", rng.uniform(0, 360, n)), ("TARGET_DEC", "D", rng.uniform(-20, 80, n)),
               ("COADD_NUMEXP", "I", np.full(n, 4)), ("DESI_TARGET", "K", np.full(n, 1 << 60)), ("BGS_TARGET", "K", np.full(n, 2))]
    return fits.BinTableHDU.from_columns([fits.Column(name, form, array=a) for name, form, a in columns], name="FIBERMAP")


def scores(rng, ids):
    columns = [fits.Column("TARGETID", "K", array=ids)]
    columns += [fits.Column(f"MEDIAN_COADD_FLUX_{arm}", "E", array=rng.normal(5, 1, len(ids))) for arm in ARMS]
    return fits.BinTableHDU.from_columns(columns, name="SCORES")


def redrock(rng, ids):
    n = len(ids)
    order = rng.permutation(n)
    columns = [("TARGETID", "K", ids[order]), ("Z", "D", rng.uniform(0.05, 0.4, n)), ("ZERR", "D", np.full(n, 1e-5)),
               ("ZWARN", "K", np.zeros(n)), ("SPECTYPE", "6A", np.full(n, "GALAXY")), ("SUBTYPE", "20A", np.full(n, "")),
               ("DELTACHI2", "D", np.full(n, 1000.0))]
    return fits.BinTableHDU.from_columns([fits.Column(name, form, array=a) for name, form, a in columns], name="REDSHIFTS")


def write(folder, name, rows, seed, packed, matrices=False):
    rng = np.random.default_rng(seed)
    ids = 39627866878511337 + 1000000 * seed + np.arange(rows, dtype="i8")
    primary = fits.PrimaryHDU()
    primary.header.update(SURVEY="main", PROGRAM="bright", HPXPIXEL=seed)
    hdus = [primary, fibermap(rng, ids)]
    for arm, (first, width) in ARMS.items():
        level = rng.uniform(1, 20, (rows, 1)).astype("f4")
        hdus += [image(arm + "_WAVELENGTH", 3600 + 0.8 * (first + np.arange(width))),
                 image(arm + "_FLUX", level + rng.standard_normal((rows, width), dtype="f4")),
                 image(arm + "_IVAR", rng.random((rows, width), dtype="f4") + np.float32(0.5))]
        mask = mask_of(rng, (rows, width))
        hdus.append(fits.CompImageHDU(mask, name=arm + "_MASK", compression_type="RICE_1") if packed else image(arm + "_MASK", mask))
        if matrices:
            kernel = np.exp(-np.arange(-5, 6) ** 2 / (2 * 0.9**2)).astype("f4")
            data = np.repeat((kernel / kernel.sum())[None, :, None], rows, axis=0) * np.ones((1, 1, width), dtype="f4")
            hdus.append(image(arm + "_RESOLUTION", data))
    hdus.append(scores(rng, ids))
    fits.HDUList(hdus).writeto(os.path.join(folder, f"coadd-{name}.fits"), overwrite=True)
    fits.HDUList([fits.PrimaryHDU(), redrock(rng, ids)]).writeto(os.path.join(folder, f"redrock-{name}.fits"), overwrite=True)


folder = sys.argv[1]
rows, files, with_matrices = (int(given) for given in (sys.argv[2:] + ["5000", "2", "500"][len(sys.argv) - 2 :]))
os.makedirs(folder, exist_ok=True)
for i in range(1, files + 1):
    write(folder, f"made-up-{i}", rows, i, packed=True)
write(folder, "plain-1", rows, 101, packed=False)
write(folder, "matrices-1", with_matrices, 201, packed=True, matrices=True)
