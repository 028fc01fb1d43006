#include "data/desi.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifndef SPD_HAVE_CFITSIO

spd_status spd_desi_open(struct spd_desi **desi, const char *path, struct spd_error *error) {
  (void)path;
  *desi = NULL;
  return spd_fail(error, SPD_STATUS_UNSUPPORTED,
                  "this build of spender cannot read FITS files: install CFITSIO (Debian, Ubuntu: apt-get install "
                  "libcfitsio-dev), then reinstall spender");
}
spd_status spd_desi_reopen(struct spd_desi **desi, const struct spd_desi *first, struct spd_error *error) {
  (void)first;
  return spd_desi_open(desi, "", error);
}
void spd_desi_close(struct spd_desi *desi) { (void)desi; }
void spd_desi_describe(struct spd_desi_facts *facts, struct spd_desi *desi) {
  (void)desi;
  memset(facts, 0, sizeof *facts);
}
spd_status spd_desi_coadd(double *flux, double *ivar, struct spd_desi *desi, struct spd_uniform_grid grid, const size_t *rows,
                          const size_t *begin, size_t n, struct spd_error *error) {
  (void)flux, (void)ivar, (void)desi, (void)grid, (void)rows, (void)begin, (void)n;
  return spd_fail(error, SPD_STATUS_UNSUPPORTED, "no file is open");
}
spd_status spd_desi_resolution(double *band, double *total, struct spd_desi *desi, struct spd_uniform_grid grid, const size_t *rows,
                               const size_t *begin, size_t n, struct spd_error *error) {
  (void)band, (void)total, (void)desi, (void)grid, (void)rows, (void)begin, (void)n;
  return spd_fail(error, SPD_STATUS_UNSUPPORTED, "no file is open");
}
spd_status spd_desi_masks(uint32_t *bits, unsigned char *state, struct spd_desi *desi, struct spd_uniform_grid grid, const size_t *rows,
                          const size_t *begin, size_t n, struct spd_error *error) {
  (void)bits, (void)state, (void)desi, (void)grid, (void)rows, (void)begin, (void)n;
  return spd_fail(error, SPD_STATUS_UNSUPPORTED, "no file is open");
}

#else

#include <float.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>

#include "core/files.h"
#include "core/hot.h"
#include "data/cfitsio.h"
#include "data/tiles.h"

enum { AT_ONCE = 16 /* rows of an image that are read together */, MATRICES_AT_ONCE = 8 };

typedef enum { FLUX, IVAR, MASK, PLANES } plane;
static const char *const plane_names[PLANES] = {"FLUX", "IVAR", "MASK"};
static const char arm_names[SPD_DESI_ARMS] = {'B', 'R', 'Z'};

struct arm {
  char name;
  size_t width;
  long first;      /* its first pixel, counted in pixels of SPD_DESI_STEP from SPD_DESI_FIRST */
  int hdu[PLANES]; /* from 1; 0: absent, a mask may be */
  int is_packed;   /* the mask is compressed */
  struct spd_tiles tiles;
  int resolution;     /* HDU of its matrices, from 1; 0: none that can be read */
  size_t n_diagonals; /* of these */
  int32_t unset;      /* value of the mask in the file that has no bit set: unsigned integers are stored with an offset */
};

struct spd_desi {
  struct spd_cfitsio_file opened;
  char *path;
  struct arm arms[SPD_DESI_ARMS];
  size_t n_arms, n_rows, widest; /* widest: pixels of the widest arm */
  float *flux, *ivar;            /* (AT_ONCE, widest) */
  int32_t *mask;
  float *matrix;       /* (MATRICES_AT_ONCE, n_diagonals, width), made when it is first needed */
  unsigned char *work; /* (SPD_TILE_MOST) */
};

static spd_status fail(const struct spd_desi *d, struct spd_error *error, const char *format, ...) {
  char sentence[256];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(sentence, sizeof sentence, format, arguments);
  va_end(arguments);
  fits_clear_errmsg();
  return spd_fail(error, SPD_STATUS_FORMAT, "%.200s %s", spd_file_name(d->path), sentence);
}

static spd_status fail_fits(const struct spd_desi *d, const char *name, int status, struct spd_error *error) {
  char text[FLEN_STATUS] = "";
  fits_get_errstatus(status, text);
  return fail(d, error, "is cut or damaged: reading %s failed (CFITSIO: %s)", name, text);
}

/* ---- opening ---- */

/* An image: height is 1 where it has one axis */
struct image {
  size_t width, height;
  int bitpix, is_packed;
};

static spd_status move_to_image(struct image *image, struct spd_desi *d, int hdu, const char *name, struct spd_error *error) {
  int status = 0, n_axes = 0, type = 0;
  long sizes[2] = {0, 1};
  memset(image, 0, sizeof *image);
  fits_movabs_hdu(d->opened.file, hdu, &type, &status);
  if (!status && type != IMAGE_HDU) status = NOT_IMAGE; /* CFITSIO takes a compressed image for one */
  fits_get_img_param(d->opened.file, 2, &image->bitpix, &n_axes, sizes, &status);
  if (status || n_axes < 1 || n_axes > 2 || sizes[0] < 1 || (n_axes == 2 && sizes[1] < 1))
    return fail(d, error, "has a %s that is not an image of rows", name);
  image->width = (size_t)sizes[0];
  image->height = n_axes == 1 ? 1 : (size_t)sizes[1];
  image->is_packed = fits_is_compressed_image(d->opened.file, &status);
  return SPD_STATUS_OK;
}

/* Wavelengths give the place of the arm's pixels on DESI's grid. */
static spd_status read_wavelengths(struct spd_desi *d, struct arm *arm, int hdu, const char *name, struct spd_error *error) {
  double wave[SPD_DESI_MAX_PIXELS];
  struct image image;
  int any_null, status = 0;
  SPD_TRY(move_to_image(&image, d, hdu, name, error));
  if (image.height != 1 || image.width > SPD_DESI_MAX_PIXELS || image.is_packed)
    return fail(d, error, "has a %s that is not an image of up to %d pixels", name, SPD_DESI_MAX_PIXELS);
  arm->width = image.width;
  fits_read_img(d->opened.file, TDOUBLE, 1, (LONGLONG)arm->width, NULL, wave, &any_null, &status);
  if (status) return fail_fits(d, name, status, error);
  const double first = (wave[0] - SPD_DESI_FIRST) / SPD_DESI_STEP;
  if (!(fabs(first) < 1e6)) return fail(d, error, "has a %s that begins with %g", name, wave[0]);
  arm->first = lround(first);
  for (size_t m = 0; m < arm->width; m++)
    if (!(fabs((wave[m] - SPD_DESI_FIRST) / SPD_DESI_STEP - (double)arm->first - (double)m) < 0.05))
      return fail(d, error, "has a pixel %zu of %s, %.6g, that is not on the grid of DESI: %g by %g", m + 1, name, wave[m], SPD_DESI_FIRST,
                  SPD_DESI_STEP);
  return SPD_STATUS_OK;
}

/* How masks are stored: the value of an unset one, and tiles */
static spd_status open_mask(struct spd_desi *d, struct arm *arm, const struct image *image, const char *name, struct spd_error *error) {
  double zero = 0, scale = 1;
  int status = 0;
  fits_read_key(d->opened.file, TDOUBLE, "BZERO", &zero, NULL, &status);
  status = 0;
  fits_read_key(d->opened.file, TDOUBLE, "BSCALE", &scale, NULL, &status);
  fits_clear_errmsg();
  const double unset = -zero / scale;
  if (!(image->bitpix == BYTE_IMG || image->bitpix == SHORT_IMG || image->bitpix == LONG_IMG) || !(unset >= INT_MIN && unset <= INT_MAX) ||
      unset != floor(unset))
    return fail(d, error, "has a %s that is not of integers of up to 32 bits", name);
  arm->unset = (int32_t)unset;
  arm->is_packed = image->is_packed;
  const char *trouble = arm->is_packed ? spd_tiles_open(&arm->tiles, d->opened.file, arm->width) : NULL;
  return trouble ? fail(d, error, "has a %s that is compressed %s: unpack it by CFITSIO's funpack", name, trouble) : SPD_STATUS_OK;
}

static spd_status open_plane(struct spd_desi *d, struct arm *arm, plane p, const struct spd_fits_names *names, struct spd_error *error) {
  char name[16];
  struct image image;
  snprintf(name, sizeof name, "%c_%s", arm->name, plane_names[p]);
  arm->hdu[p] = spd_fits_find_name(names, name) + 1;
  if (arm->hdu[p] == 0 && p == MASK) return SPD_STATUS_OK;
  if (arm->hdu[p] == 0) return fail(d, error, "has %c_WAVELENGTH, but no %s", arm->name, name);
  SPD_TRY(move_to_image(&image, d, arm->hdu[p], name, error));
  if (image.width != arm->width)
    return fail(d, error, "has %zu pixels in a row of %s where %c_WAVELENGTH has %zu", image.width, name, arm->name, arm->width);
  if (d->n_rows == 0) d->n_rows = image.height;
  if (image.height != d->n_rows)
    return fail(d, error, "has %zu rows in %s where the images before have %zu", image.height, name, d->n_rows);
  if (p == MASK) return open_mask(d, arm, &image, name, error);
  return image.is_packed ? fail(d, error, "has a %s that is compressed: unpack it by CFITSIO's funpack", name) : SPD_STATUS_OK;
}

/* Matrices of another shape than the spectra's, or compressed, are left alone: most readers do not want them. */
static void open_resolution(struct spd_desi *d, struct arm *arm, const struct spd_fits_names *names) {
  char name[16];
  int status = 0, n_axes = 0, type = 0, bitpix = 0;
  long sizes[3] = {0, 0, 0};
  snprintf(name, sizeof name, "%c_RESOLUTION", arm->name);
  const int hdu = spd_fits_find_name(names, name) + 1;
  if (hdu == 0) return;
  fits_movabs_hdu(d->opened.file, hdu, &type, &status);
  fits_get_img_param(d->opened.file, 3, &bitpix, &n_axes, sizes, &status);
  const int fits = !status && type == IMAGE_HDU && !fits_is_compressed_image(d->opened.file, &status) && n_axes == 3 &&
                   sizes[0] == (long)arm->width && sizes[1] > 0 && sizes[1] <= SPD_DESI_MAX_DIAGONALS && sizes[1] % 2 == 1 &&
                   sizes[2] == (long)d->n_rows;
  fits_clear_errmsg();
  if (fits) arm->resolution = hdu, arm->n_diagonals = (size_t)sizes[1];
}

static spd_status open_arms(struct spd_desi *d, const struct spd_fits_names *names, struct spd_error *error) {
  for (int i = 0; i < SPD_DESI_ARMS; i++) {
    struct arm *arm = &d->arms[d->n_arms];
    char name[16];
    snprintf(name, sizeof name, "%c_WAVELENGTH", arm_names[i]);
    const int hdu = spd_fits_find_name(names, name) + 1;
    arm->name = arm_names[i];
    if (hdu > 0) SPD_TRY(read_wavelengths(d, arm, hdu, name, error));
    for (plane p = FLUX; hdu > 0 && p < PLANES; p++) SPD_TRY(open_plane(d, arm, p, names, error));
    if (hdu > 0) open_resolution(d, arm, names);
    snprintf(name, sizeof name, "%c_FLUX", arm_names[i]);
    if (hdu == 0 && spd_fits_find_name(names, name) >= 0) return fail(d, error, "has %s, but no %c_WAVELENGTH", name, arm_names[i]);
    d->n_arms += hdu > 0;
  }
  if (d->n_arms == 0) return fail(d, error, "has no spectra of an arm: no HDU B_WAVELENGTH, R_WAVELENGTH or Z_WAVELENGTH");
  return SPD_STATUS_OK;
}

static spd_status allocate(struct spd_desi *d, struct spd_error *error) {
  size_t width = 0;
  for (size_t i = 0; i < d->n_arms; i++)
    if (d->arms[i].width > width) width = d->arms[i].width;
  d->widest = width;
  d->flux = malloc(AT_ONCE * width * sizeof *d->flux);
  d->ivar = malloc(AT_ONCE * width * sizeof *d->ivar);
  d->mask = calloc(AT_ONCE * width, sizeof *d->mask);
  d->work = malloc(SPD_TILE_MOST);
  return d->flux && d->ivar && d->mask && d->work ? SPD_STATUS_OK : spd_fail(error, SPD_STATUS_NO_MEMORY, "no memory for spectra of DESI");
}

void spd_desi_close(struct spd_desi *d) {
  if (!d) return;
  spd_cfitsio_close(&d->opened);
  free(d->path);
  free(d->flux);
  free(d->ivar);
  free(d->mask);
  free(d->matrix);
  free(d->work);
  free(d);
}

static struct spd_desi *new_desi(const char *path) {
  struct spd_desi *d = calloc(1, sizeof *d);
  if (d && !(d->path = strdup(path))) {
    free(d);
    return NULL;
  }
  return d;
}

static spd_status keep(struct spd_desi **out, struct spd_desi *d, spd_status result) {
  *out = result == SPD_STATUS_OK ? d : NULL;
  if (result != SPD_STATUS_OK) spd_desi_close(d);
  return result;
}

spd_status spd_desi_open(struct spd_desi **out, const char *path, struct spd_error *error) {
  struct spd_desi *d = new_desi(path);
  struct spd_fits_names *names = malloc(sizeof *names);
  spd_status result = d && names ? SPD_STATUS_OK : spd_fail(error, SPD_STATUS_NO_MEMORY, "no memory for a file of DESI");
  if (result == SPD_STATUS_OK) result = spd_cfitsio_open_named(&d->opened, names, path, spd_file_name(path), error);
  if (result == SPD_STATUS_OK) result = open_arms(d, names, error);
  if (result == SPD_STATUS_OK) result = allocate(d, error);
  free(names);
  return keep(out, d, result);
}

spd_status spd_desi_reopen(struct spd_desi **out, const struct spd_desi *first, struct spd_error *error) {
  struct spd_desi *d = new_desi(first->path);
  if (!d) return spd_fail(error, SPD_STATUS_NO_MEMORY, "no memory for a file of DESI");
  memcpy(d->arms, first->arms, sizeof d->arms);
  d->n_arms = first->n_arms;
  d->n_rows = first->n_rows;
  spd_status result = spd_cfitsio_reopen(&d->opened, &first->opened, d->path, spd_file_name(d->path), error);
  if (result == SPD_STATUS_OK) result = allocate(d, error);
  return keep(out, d, result);
}

static void read_key_text(char text[SPD_DESI_TEXT], fitsfile *file, const char *key) {
  int status = 0;
  fits_read_key(file, TSTRING, key, text, NULL, &status);
  if (status) text[0] = '\0';
  for (char *p = text; *p; p++)
    if (*p < ' ' || *p > '~') *p = '?';
}

static double read_key_number(fitsfile *file, const char *key) {
  int status = 0;
  double value;
  fits_read_key(file, TDOUBLE, key, &value, NULL, &status);
  return status ? NAN : value;
}

static size_t shared_diagonals(const struct spd_desi *d) {
  for (size_t a = 1; a < d->n_arms; a++)
    if (d->arms[a].n_diagonals != d->arms[0].n_diagonals) return 0;
  return d->arms[0].n_diagonals;
}

void spd_desi_describe(struct spd_desi_facts *facts, struct spd_desi *d) {
  int status = 0;
  memset(facts, 0, sizeof *facts);
  facts->n_rows = d->n_rows;
  for (size_t i = 0; i < d->n_arms; i++) facts->arms[i] = d->arms[i].name;
  fits_movabs_hdu(d->opened.file, 1, NULL, &status);
  read_key_text(facts->survey, d->opened.file, "SURVEY");
  read_key_text(facts->program, d->opened.file, "PROGRAM");
  facts->healpix = read_key_number(d->opened.file, "HPXPIXEL");
  facts->tile = read_key_number(d->opened.file, "TILEID");
  facts->n_diagonals = shared_diagonals(d);
  fits_clear_errmsg();
}

/* ---- pixels ---- */

/* Rows of the current HDU, `width` numbers of 32 bits each, those that follow each other in the file together. */
static int read_runs(void *to, fitsfile *file, int type, const size_t *rows, size_t n, size_t width) {
  int status = 0, any_null;
  for (size_t i = 0, run; i < n && !status; i += run) {
    for (run = 1; i + run < n && rows[i + run] == rows[i] + run;) run++;
    fits_read_img(file, type, (LONGLONG)(rows[i] * width) + 1, (LONGLONG)(run * width), NULL, (char *)to + i * width * sizeof(float),
                  &any_null, &status);
  }
  return status;
}

/* Rows of a plane. Masks as they are stored, without their offset. */
static int read_rows(void *to, struct spd_desi *d, const struct arm *arm, plane p, const size_t *rows, size_t n) {
  int status = 0;
  fits_movabs_hdu(d->opened.file, arm->hdu[p], NULL, &status);
  if (p == MASK && arm->is_packed) {
    for (size_t i = 0; i < n && !status; i++)
      status = spd_tiles_read((int32_t *)to + i * arm->width, &arm->tiles, d->opened.file, rows[i], d->work);
    return status;
  }
  if (p == MASK) fits_set_bscale(d->opened.file, 1, 0, &status);
  return status ? status : read_runs(to, d->opened.file, p == MASK ? TINT : TFLOAT, rows, n, arm->width);
}

/* Flux, ivar and mask of n rows */
static spd_status read_planes(struct spd_desi *d, const struct arm *arm, const size_t *rows, size_t n, struct spd_error *error) {
  void *const planes[PLANES] = {d->flux, d->ivar, d->mask};
  for (plane p = FLUX; p < PLANES; p++) {
    const int status = arm->hdu[p] ? read_rows(planes[p], d, arm, p, rows, n) : 0;
    if (status) {
      char name[16];
      snprintf(name, sizeof name, "%c_%s", arm->name, plane_names[p]);
      return fail_fits(d, name, status, error);
    }
  }
  if (arm->hdu[MASK] == 0) memset(d->mask, 0, n * arm->width * sizeof *d->mask); /* and arm->unset is 0 */
  return SPD_STATUS_OK;
}

/* The arm's pixels `from` to `end` - 1 are on the grid, the first of them at `onto`. None if from >= end. */
struct part {
  long from, end, onto;
};

static struct part part_of(const struct arm *arm, struct spd_uniform_grid grid) {
  const long offset = arm->first - lround((grid.first - SPD_DESI_FIRST) / SPD_DESI_STEP); /* of the arm on the grid */
  const long room = (long)grid.size - offset;
  struct part part = {.from = offset < 0 ? -offset : 0, .end = room < (long)arm->width ? room : (long)arm->width};
  part.onto = offset + part.from;
  return part;
}

/* Adds n pixels of an arm to the sums of w flux and of w. A product of two floats is exact in double precision, so that a pixel of one arm
 * keeps its flux. */
SPD_HOT static void add_pixels(double *restrict sum, double *restrict weight, const float *restrict flux, const float *restrict ivar,
                               const int32_t *restrict mask, int32_t unset, size_t n) {
  SPD_SIMD
  for (size_t m = 0; m < n; m++) {
    const float y = flux[m], w = ivar[m];
    const int good = (mask[m] == unset) & (w > 0) & (w <= FLT_MAX) & (y >= -FLT_MAX) & (y <= FLT_MAX);
    sum[m] += good ? (double)w * y : 0;
    weight[m] += good ? w : 0;
  }
}

SPD_HOT static void divide(double *restrict sum, const double *restrict weight, size_t n) {
  SPD_SIMD
  for (size_t m = 0; m < n; m++) sum[m] = weight[m] > 0 ? sum[m] / weight[m] : 0;
}

/* Adds n rows of an arm, each to the spectrum `to` that it is part of. */
static spd_status add_arm(double *flux, double *ivar, struct spd_desi *d, const struct arm *arm, struct spd_uniform_grid grid,
                          const size_t *rows, const size_t *to, size_t n, struct spd_error *error) {
  const struct part part = part_of(arm, grid);
  SPD_TRY(read_planes(d, arm, rows, n, error));
  for (size_t i = 0; i < n && part.from < part.end; i++) {
    const size_t at = i * arm->width + (size_t)part.from, onto = to[i] * grid.size + (size_t)part.onto;
    add_pixels(flux + onto, ivar + onto, d->flux + at, d->ivar + at, d->mask + at, arm->unset, (size_t)(part.end - part.from));
  }
  return SPD_STATUS_OK;
}

/* The spectra of n rows, of which the first is in spectrum *spectrum or a later one */
static void find_spectra(size_t *to, size_t *spectrum, const size_t *begin, size_t first, size_t n) {
  for (size_t i = 0; i < n; i++) {
    while (begin[*spectrum + 1] <= first + i) ++*spectrum;
    to[i] = *spectrum;
  }
}

spd_status spd_desi_coadd(double *flux, double *ivar, struct spd_desi *d, struct spd_uniform_grid grid, const size_t *rows,
                          const size_t *begin, size_t n, struct spd_error *error) {
  size_t to[AT_ONCE], spectrum = 0;
  memset(flux, 0, n * grid.size * sizeof *flux);
  memset(ivar, 0, n * grid.size * sizeof *ivar);
  for (size_t first = begin[0], count; first < begin[n]; first += count) {
    count = begin[n] - first < AT_ONCE ? begin[n] - first : AT_ONCE;
    find_spectra(to, &spectrum, begin, first, count);
    for (size_t a = 0; a < d->n_arms; a++) SPD_TRY(add_arm(flux, ivar, d, &d->arms[a], grid, rows + first, to, count, error));
  }
  divide(flux, ivar, n * grid.size);
  return SPD_STATUS_OK;
}

/* ---- resolution ---- */

/* The weights of a row's pixels, those without one counting where no other has any, and their sum over rows */
static void add_weights(double *restrict weight, double *restrict total, const float *restrict flux, const float *restrict ivar,
                        const int32_t *restrict mask, int32_t unset, size_t n) {
  SPD_SIMD
  for (size_t m = 0; m < n; m++) {
    const float y = flux[m], w = ivar[m];
    const int good = (mask[m] == unset) & (w > 0) & (w <= FLT_MAX) & (y >= -FLT_MAX) & (y <= FLT_MAX);
    weight[m] = good ? (double)w : 1e-30;
    total[m] += weight[m];
  }
}

/* Not SPD_HOT: a fused product and sum has other bits. */
static void add_diagonal(double *restrict sum, const double *restrict weight, const float *restrict values, size_t n) {
  SPD_SIMD
  for (size_t m = 0; m < n; m++) {
    const float value = values[m];
    sum[m] += (value >= -FLT_MAX) & (value <= FLT_MAX) ? weight[m] * (double)value : 0;
  }
}

/* Adds the matrix of a row. The file has columns of the matrix: element (k, j) is what pixel j contributes to pixel j - half + k, so pixel
 * m gets it from j = m + half - k. band: (n_diagonals, grid.size). */
static void add_matrix(double *band, const double *weight, const float *matrix, const struct arm *arm, struct part part, size_t size) {
  const long half = (long)arm->n_diagonals / 2, width = (long)arm->width;
  for (long k = 0; k <= 2 * half; k++) {
    const long shift = half - k, from = part.from + shift < 0 ? -shift : part.from;
    const long end = part.end + shift > width ? width - shift : part.end;
    if (from < end)
      add_diagonal(band + (size_t)(2 * half - k) * size + (size_t)(part.onto + from - part.from), weight + from,
                   matrix + k * width + from + shift, (size_t)(end - from));
  }
}

static spd_status read_matrices(struct spd_desi *d, const struct arm *arm, const size_t *rows, size_t n, struct spd_error *error) {
  int status = 0;
  fits_movabs_hdu(d->opened.file, arm->resolution, NULL, &status);
  if (!status) status = read_runs(d->matrix, d->opened.file, TFLOAT, rows, n, arm->n_diagonals * arm->width);
  return status ? fail_fits(d, "a resolution", status, error) : SPD_STATUS_OK;
}

SPD_HOT static void divide_by(double *restrict sum, const double *restrict weight, size_t n) {
  SPD_SIMD
  for (size_t m = 0; m < n; m++) sum[m] = weight[m] > 0 ? sum[m] / weight[m] : sum[m];
}

spd_status spd_desi_resolution(double *band, double *total, struct spd_desi *d, struct spd_uniform_grid grid, const size_t *rows,
                               const size_t *begin, size_t n, struct spd_error *error) {
  const size_t n_diagonals = shared_diagonals(d);
  double weight[SPD_DESI_MAX_PIXELS];
  if (n_diagonals == 0) return fail(d, error, "has no resolution matrices, or different ones in its arms");
  if (!d->matrix) d->matrix = malloc(MATRICES_AT_ONCE * n_diagonals * d->widest * sizeof *d->matrix);
  if (!d->matrix) return spd_fail(error, SPD_STATUS_NO_MEMORY, "no memory for a resolution matrix of DESI");
  memset(band, 0, n * n_diagonals * grid.size * sizeof *band);
  memset(total, 0, n * grid.size * sizeof *total);
  for (size_t a = 0; a < d->n_arms; a++) {
    const struct arm *arm = &d->arms[a];
    const struct part part = part_of(arm, grid);
    size_t to[MATRICES_AT_ONCE], spectrum = 0;
    for (size_t first = begin[0], count; first < begin[n] && part.from < part.end; first += count) {
      count = begin[n] - first < MATRICES_AT_ONCE ? begin[n] - first : MATRICES_AT_ONCE;
      find_spectra(to, &spectrum, begin, first, count);
      SPD_TRY(read_planes(d, arm, rows + first, count, error));
      SPD_TRY(read_matrices(d, arm, rows + first, count, error));
      for (size_t i = 0; i < count; i++) {
        const size_t at = i * arm->width + (size_t)part.from;
        add_weights(weight + part.from, total + to[i] * grid.size + part.onto, d->flux + at, d->ivar + at, d->mask + at, arm->unset,
                    (size_t)(part.end - part.from));
        add_matrix(band + to[i] * n_diagonals * grid.size, weight, d->matrix + i * n_diagonals * arm->width, arm, part, grid.size);
      }
    }
  }
  for (size_t i = 0; i < n; i++)
    for (size_t k = 0; k < n_diagonals; k++) divide_by(band + (i * n_diagonals + k) * grid.size, total + i * grid.size, grid.size);
  return SPD_STATUS_OK;
}

/* ---- masks ---- */

spd_status spd_desi_masks(uint32_t *bits, unsigned char *state, struct spd_desi *d, struct spd_uniform_grid grid, const size_t *rows,
                          const size_t *begin, size_t n, struct spd_error *error) {
  memset(bits, 0, n * grid.size * sizeof *bits);
  memset(state, 0, n * grid.size);
  for (size_t i = 0; i < n; i++)
    for (size_t k = begin[i]; k < begin[i + 1]; k++)
      for (size_t a = 0; a < d->n_arms; a++) {
        const struct arm *arm = &d->arms[a];
        const struct part part = part_of(arm, grid);
        SPD_TRY(read_planes(d, arm, rows + k, 1, error));
        for (long m = part.from; m < part.end; m++) {
          const size_t to = i * grid.size + (size_t)(part.onto + m - part.from);
          bits[to] |= (uint32_t)d->mask[m] - (uint32_t)arm->unset;
          state[to] |= SPD_DESI_PIXEL_THERE | (isfinite(d->flux[m]) && isfinite(d->ivar[m]) ? 0 : SPD_DESI_PIXEL_NOT_FINITE);
        }
      }
  return SPD_STATUS_OK;
}

#endif
