#include "data/tiles.h"

#include <string.h>

#include "core/bytes.h"

#ifdef SPD_HAVE_ZLIB
#include <zlib.h>
#endif

/* ---- Rice ---- */

/* Bits of a byte string, the highest of each byte first. Beyond its end there are zeros, and `ended` is set. */
struct bits {
  const unsigned char *at, *end;
  uint64_t held;
  int n_held, ended;
};

static uint32_t take(struct bits *b, int n) {
  while (b->n_held < n) {
    b->ended |= b->at == b->end;
    b->held = b->held << 8 | (b->at < b->end ? *b->at++ : 0);
    b->n_held += 8;
  }
  b->n_held -= n;
  return (uint32_t)(b->held >> b->n_held & ((UINT64_C(1) << n) - 1));
}

static uint32_t count_zeros(struct bits *b) {
  uint32_t n = 0;
  while (!b->ended && !take(b, 1)) n++;
  return n;
}

/* Blocks of differences between neighbours, each with its number of low bits, after White & Becker 1998 (Pence et al. 2009, PASP 121, 414):
 * 5 bits of that number + 1; 0: all differences are 0; 26: they are not coded. Differences d are stored as 2d, or as -2d - 1. */
int spd_tile_rice(int32_t *to, size_t n, const unsigned char *bytes, size_t size, size_t block) {
  enum { BITS = 5, PLAIN = 25 };
  struct bits bits = {.at = bytes, .end = bytes + size};
  uint32_t last = take(&bits, 32);
  for (size_t i = 0, stop; i < n && block > 0; i = stop) {
    const int low = (int)take(&bits, BITS) - 1;
    stop = n - i < block ? n : i + block;
    if (low > PLAIN) return 0;
    for (size_t k = i; k < stop; k++) {
      uint32_t code = 0;
      if (low == PLAIN) {
        code = take(&bits, 32);
      } else if (low >= 0) {
        const uint32_t high = count_zeros(&bits);
        code = high << low | take(&bits, low);
      }
      last += code & 1 ? ~(code >> 1) : code >> 1;
      memcpy(to + k, &last, sizeof last);
    }
    if (bits.ended) return 0;
  }
  return !bits.ended;
}

/* ---- gzip ---- */

int spd_tile_gzip(int32_t *to, size_t n, const unsigned char *bytes, size_t size, int shuffled) {
#ifdef SPD_HAVE_ZLIB
  enum { ANY_HEADER = 15 + 32 };
  unsigned char unpacked[4096], *out = (unsigned char *)to;
  z_stream stream = {.next_in = (Bytef *)(uintptr_t)bytes, .avail_in = (uInt)size};
  if (inflateInit2(&stream, ANY_HEADER) != Z_OK) return 0;
  size_t at = 0;
  int status = Z_OK;
  while (status == Z_OK) {
    stream.next_out = unpacked;
    stream.avail_out = sizeof unpacked;
    status = inflate(&stream, Z_NO_FLUSH);
    const size_t got = sizeof unpacked - stream.avail_out;
    if (got > 4 * n - at) status = Z_DATA_ERROR;
    for (size_t i = 0; i < got && status >= Z_OK; i++, at++) out[shuffled ? 4 * (at % n) + at / n : at] = unpacked[i];
  }
  inflateEnd(&stream);
  if (status != Z_STREAM_END || at != 4 * n) return 0;
  for (size_t i = 0; i < n; i++) to[i] = spd_get_int((const unsigned char *)(to + i));
  return 1;
#else
  (void)to, (void)n, (void)bytes, (void)size, (void)shuffled;
  return 0;
#endif
}

/* ---- images ---- */

#ifdef SPD_HAVE_CFITSIO

static long read_long(fitsfile *file, const char *key, long otherwise) {
  int status = 0;
  long value;
  fits_read_key(file, TLONG, key, &value, NULL, &status);
  return status ? otherwise : value;
}

const char *spd_tiles_open(struct spd_tiles *t, fitsfile *file, size_t width) {
  int status = 0;
  memset(t, 0, sizeof *t);
  t->width = width;
  t->block = 32;
  fits_read_key(file, TSTRING, "ZCMPTYPE", t->method, NULL, &status);
  fits_get_colnum(file, CASEINSEN, "COMPRESSED_DATA", &t->column, &status);
  if (status) return "its header does not say how";
  for (int i = 1; i <= 9; i++) { /* parameters of the method */
    const char name_key[] = {'Z', 'N', 'A', 'M', 'E', (char)('0' + i), '\0'}, value_key[] = {'Z', 'V', 'A', 'L', (char)('0' + i), '\0'};
    char name[FLEN_VALUE];
    if (fits_read_key(file, TSTRING, name_key, name, NULL, &status)) break;
    const long value = read_long(file, value_key, 0);
    if (strcmp(name, "BLOCKSIZE") == 0) t->block = value > 0 ? (size_t)value : 0;
    if (strcmp(name, "BYTEPIX") == 0 && value != 4) return "not as integers of 4 bytes";
  }
  fits_clear_errmsg();
  if (strcmp(t->method, "RICE_1") != 0 && strcmp(t->method, "GZIP_1") != 0 && strcmp(t->method, "GZIP_2") != 0)
    return "by another method than RICE_1, GZIP_1 and GZIP_2";
#ifndef SPD_HAVE_ZLIB
  if (t->method[0] == 'G') return "by gzip, and this build has no zlib";
#endif
  if (t->block == 0 || read_long(file, "ZBITPIX", 0) != 32) return "not as integers of 4 bytes";
  if (read_long(file, "ZTILE1", (long)width) != (long)width || read_long(file, "ZTILE2", 1) != 1) return "in tiles that are not its rows";
  return NULL;
}

int spd_tiles_read(int32_t *to, const struct spd_tiles *t, fitsfile *file, size_t row, unsigned char *work) {
  LONGLONG size = 0, offset = 0;
  int status = 0, any_null;
  fits_read_descriptll(file, t->column, (LONGLONG)row + 1, &size, &offset, &status);
  if (!status && (size <= 0 || size > SPD_TILE_MOST)) status = DATA_DECOMPRESSION_ERR;
  fits_read_col(file, TBYTE, t->column, (LONGLONG)row + 1, 1, size, NULL, work, &any_null, &status);
  if (status) return status;
  const int sound = strcmp(t->method, "RICE_1") == 0 ? spd_tile_rice(to, t->width, work, (size_t)size, t->block)
                                                     : spd_tile_gzip(to, t->width, work, (size_t)size, strcmp(t->method, "GZIP_2") == 0);
  return sound ? 0 : DATA_DECOMPRESSION_ERR;
}

#endif
