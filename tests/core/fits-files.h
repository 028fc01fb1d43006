/* Small FITS files, written with the core's own header functions. */
#ifndef SPD_TEST_FITS_FILES_H
#define SPD_TEST_FITS_FILES_H

#include <unistd.h>

#include "check.h"
#include "core/bytes.h"
#include "core/files.h"
#include "data/fits.h"

enum { FITS_FILE_MOST = 1 << 20 };

/* A file in memory, part after part; `open_header` is the header that is being written */
struct fits_file {
  unsigned char bytes[FITS_FILE_MOST];
  size_t size;
  struct spd_fits_header header;
};

CHECK_UNUSED static struct fits_file *fits_file_new(void) { return check_alloc(sizeof(struct fits_file)); }

/* Ends the header and appends it with its data, zero bytes of which need not be given */
CHECK_UNUSED static void fits_file_add(struct fits_file *f, const void *data, size_t size) {
  spd_fits_end(&f->header);
  memcpy(f->bytes + f->size, f->header.bytes, f->header.size);
  f->size += f->header.size;
  if (data) memcpy(f->bytes + f->size, data, size);
  f->size += (size_t)spd_fits_padded(size);
  f->header.size = 0;
}

CHECK_UNUSED static void fits_file_primary(struct fits_file *f) {
  spd_fits_add(&f->header, "SIMPLE  =                    T");
  spd_fits_add_integer(&f->header, "BITPIX", 8);
  spd_fits_add_integer(&f->header, "NAXIS", 0);
  spd_fits_add(&f->header, "EXTEND  =                    T");
  fits_file_add(f, NULL, 0);
}

struct fits_column {
  const char *name, *form;
};

/* The header of a binary table; fits_file_add() follows. */
CHECK_UNUSED static void fits_file_table(struct fits_file *f, const struct fits_column *columns, int n_columns, size_t row_bytes,
                                         size_t n_rows) {
  char key[20];
  spd_fits_add(&f->header, "XTENSION= 'BINTABLE'");
  spd_fits_add_integer(&f->header, "BITPIX", 8);
  spd_fits_add_integer(&f->header, "NAXIS", 2);
  spd_fits_add_integer(&f->header, "NAXIS1", (long long)row_bytes);
  spd_fits_add_integer(&f->header, "NAXIS2", (long long)n_rows);
  spd_fits_add_integer(&f->header, "PCOUNT", 0);
  spd_fits_add_integer(&f->header, "GCOUNT", 1);
  spd_fits_add_integer(&f->header, "TFIELDS", n_columns);
  for (int i = 0; i < n_columns; i++) {
    snprintf(key, sizeof key, "TTYPE%d", i + 1);
    spd_fits_add_text(&f->header, key, columns[i].name);
    snprintf(key, sizeof key, "TFORM%d", i + 1);
    spd_fits_add_text(&f->header, key, columns[i].form);
  }
}

/* The header of an image extension of one axis or, if it has more than one row, two; fits_file_add() follows. */
CHECK_UNUSED static void fits_file_image(struct fits_file *f, const char *name, int bitpix, int width, int height) {
  spd_fits_add(&f->header, "XTENSION= 'IMAGE   '");
  spd_fits_add_integer(&f->header, "BITPIX", bitpix);
  spd_fits_add_integer(&f->header, "NAXIS", height > 1 ? 2 : 1);
  spd_fits_add_integer(&f->header, "NAXIS1", width);
  if (height > 1) spd_fits_add_integer(&f->header, "NAXIS2", height);
  spd_fits_add_integer(&f->header, "PCOUNT", 0);
  spd_fits_add_integer(&f->header, "GCOUNT", 1);
  spd_fits_add_text(&f->header, "EXTNAME", name);
}

/* The first `size` bytes; all of them for 0 */
CHECK_UNUSED static void fits_file_write(const struct fits_file *f, const char *path, size_t size) {
  FILE *file = fopen(path, "wb");
  if (!file || fwrite(f->bytes, 1, size ? size : f->size, file) != (size ? size : f->size)) exit(2);
  fclose(file);
}

#endif
