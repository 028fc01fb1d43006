/* Reads a per-object file of SDSS, BOSS or SDSS-V (spec-PLATE-MJD-FIBER.fits, spec-FIELD-MJD-CATALOGID.fits), gzipped or not: HDU 1
 * (COADD), a table of pixels, and HDU 2 (SPECOBJ or SPALL), a table of one row.
 * https://data.sdss.org/datamodel/files/BOSS_SPECTRO_REDUX/RUN2D/spectra/PLATE4/spec.html
 */
#ifndef SPD_DATA_SDSS_H
#define SPD_DATA_SDSS_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

enum {
  SPD_SDSS_MAX_PIXELS = 16384, /* a coadd has up to 4700 */
  SPD_SDSS_TEXT = 64,
  SPD_SDSS_UNKNOWN = INT_MIN /* an integer that the file lacks; a real is NaN, a text is empty */
};

/* The pixels of all files are uniform in log10 wavelength by this step. */
#define SPD_SDSS_STEP 1e-4

/* HDU 2 */
struct spd_sdss_object {
  double z, z_err, sn_median;                            /* z is finite and above -1 */
  double ra, dec;                                        /* degrees */
  double zwarning;                                       /* flags of up to 53 bits; NaN where the file has none */
  int plate, mjd, fiber, field;                          /* field: of SDSS-V, which has no plates */
  char catalogid[SPD_SDSS_TEXT], sdss_id[SPD_SDSS_TEXT]; /* of SDSS-V: 64-bit integers */
  char class_name[SPD_SDSS_TEXT], subclass[SPD_SDSS_TEXT], plate_quality[SPD_SDSS_TEXT], instrument[SPD_SDSS_TEXT];
};

/* HDU 1; flux, ivar and loglam as they are in the file */
struct spd_sdss_pixels {
  size_t n;
  float flux[SPD_SDSS_MAX_PIXELS], ivar[SPD_SDSS_MAX_PIXELS], loglam[SPD_SDSS_MAX_PIXELS];
  int32_t mask[SPD_SDSS_MAX_PIXELS]; /* 1 where any bit is set or the value is missing, else 0 */
};

/* mask: the column, "and_mask" (bits that are set in all exposures) or "or_mask" (in any). The sentence on failure begins with the file's
 * name, without its folder. Reentrant, one pair of structs per thread. */
spd_status spd_sdss_read(struct spd_sdss_pixels *pixels, struct spd_sdss_object *object, const char *path, const char *mask,
                         struct spd_error *error);

#endif
