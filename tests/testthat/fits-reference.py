"""What astropy reads, for comparison: python3 fits-reference.py {desi | redrock | sdss} FILE OUT

desi: OUT.id, a TARGETID in a line; OUT.pixels, doubles: flux and ivar of each row (7781 each), in turn, by the formula of the coadd; OUT.wave;
OUT.bits, those set in any arm's mask. redrock: OUT.id and OUT.z, doubles. sdss: OUT.id, OUT.z; OUT.pixels: flux, ivar where and_mask is 0,
ivar where or_mask is 0, loglam, both masks.
"""

import sys

import numpy as np
from astropy.io import fits

kind, path, out = sys.argv[1:]


def write(name, values):
    np.ascontiguousarray(values, dtype="<f8").tofile(out + name)


with fits.open(path) as file:
    if kind == "desi":
        ids = file["FIBERMAP"].data["TARGETID"]
        total = np.zeros((len(ids), 7781))
        weight = np.zeros((len(ids), 7781))
        wave = np.zeros(7781)
        bits = np.zeros((len(ids), 7781), dtype="i8")
        for arm in "BRZ":
            if arm + "_FLUX" not in file:
                continue
            here = np.rint((file[arm + "_WAVELENGTH"].data - 3600) / 0.8).astype(int)
            wave[here] = file[arm + "_WAVELENGTH"].data
            good = file[arm + "_MASK"].data == 0
            bits[:, here] |= file[arm + "_MASK"].data.astype("i8")
            ivar = file[arm + "_IVAR"].data.astype("f8") * good
            total[:, here] += ivar * file[arm + "_FLUX"].data
            weight[:, here] += ivar
        flux = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
        write(".pixels", np.stack([flux, weight], axis=1))
        write(".wave", wave)
        write(".bits", bits)
    elif kind == "redrock":
        ids = file["REDSHIFTS"].data["TARGETID"]
        write(".z", file["REDSHIFTS"].data["Z"])
    else:
        table = file[1].data
        columns = {name.lower(): name for name in table.names}
        ids = [file[2].data["Z"][0]]
        masks = [table[columns[name]] for name in ("and_mask", "or_mask")]
        ivar = [np.where(mask == 0, table[columns["ivar"]], 0) for mask in masks]
        write(".pixels", [table[columns["flux"]], *ivar, table[columns["loglam"]], *masks])
        write(".z", [file[2].data["Z"][0], file[2].data["PLUG_RA"][0], file[2].data["PLUG_DEC"][0]])
    with open(out + ".id", "w") as lines:
        lines.write("".join("%s\n" % i for i in ids))
