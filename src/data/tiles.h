/* Rows of 32-bit integers in an image that is compressed in tiles of one row each, by Rice's method or by gzip, read without CFITSIO's
 * decompression: that of CFITSIO 4.2 reads beyond the end of damaged data. https://fits.gsfc.nasa.gov/fits_standard.html (section 10) */
#ifndef SPD_DATA_TILES_H
#define SPD_DATA_TILES_H

#include <stddef.h>
#include <stdint.h>

/* Decode n integers from `size` bytes. Return 0 where these are not what the method makes of n integers. */
int spd_tile_rice(int32_t *to, size_t n, const unsigned char *bytes, size_t size, size_t block);
/* Big-endian integers, gzipped; shuffled: all first bytes first, then all second ones, ... Returns 0 in a build without zlib, too. */
int spd_tile_gzip(int32_t *to, size_t n, const unsigned char *bytes, size_t size, int shuffled);

#ifdef SPD_HAVE_CFITSIO
#include "data/cfitsio.h"

enum { SPD_TILE_MOST = 1 << 17 /* bytes of a tile: twice those of 16384 integers */ };

/* An image's way of compression, from its header */
struct spd_tiles {
  char method[FLEN_VALUE];
  int column; /* that of the compressed bytes */
  size_t width, block;
};

/* Of the current HDU. Returns NULL, or what of it is not supported. */
const char *spd_tiles_open(struct spd_tiles *tiles, fitsfile *file, size_t width);
/* A row of the image, from 0, of the current HDU: (width) integers without their offset. work: (SPD_TILE_MOST). Returns CFITSIO's status.
 */
int spd_tiles_read(int32_t *to, const struct spd_tiles *tiles, fitsfile *file, size_t row, unsigned char *work);
#endif

#endif
