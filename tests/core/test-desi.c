/* DESI's files: the coadd by its formula, compressed masks, what is refused, and files that were changed at random. SPENDER_MUTATIONS says
 * how many of each kind (30,000 were tried), SPENDER_MUTATION_SEED which. */
#include "core/rng.h"
#include "data/catalogue.h"
#include "data/desi.h"
#include "data/tiles.h"
#include "fits-files.h"

static const char *const path = "test-desi.fits.tmp";

/* Bytes by hand: the first value, then blocks of 4 */
static void test_rice(void) {
  /* 7; 5 bits 0: all differences are 0. 5 bits 2: 1 low bit; differences 2, -1, 0, 3, as 4, 1, 0, 6: zeros, a 1, a low bit.
   * 00000 00010 0010 11 10 0001 0 */
  const unsigned char bytes[] = {0, 0, 0, 7, 0x00, 0x8b, 0x84};
  const int32_t want[] = {7, 7, 7, 7, 9, 8, 8, 11};
  int32_t values[8];
  CHECK(spd_tile_rice(values, 8, bytes, sizeof bytes, 4) && memcmp(values, want, sizeof want) == 0, "%d %d %d %d, %d %d %d %d", values[0],
        values[1], values[2], values[3], values[4], values[5], values[6], values[7]);
  for (size_t size = 0; size < sizeof bytes; size++) CHECK(!spd_tile_rice(values, 8, bytes, size, 4), "%zu of its bytes are enough", size);
  const unsigned char zeros[] = {0, 0, 0, 7, 0x10, 0, 0, 0};
  CHECK(!spd_tile_rice(values, 8, zeros, sizeof zeros, 4), "a code without an end is accepted");
  CHECK(!spd_tile_gzip(values, 8, bytes, sizeof bytes, 0), "what is not gzipped is unpacked");
}

#ifdef SPD_HAVE_CFITSIO
#include <fitsio.h>

enum { ROWS = 3, WIDTH = 60, OVERLAP = 10, FIRST = 100, GRID = 3 * WIDTH - 2 * OVERLAP };

static const char arms[] = "BRZ";

/* Pixel m of a row of an arm */
static float flux_of(int arm, int row, int m) { return (float)(1 + arm + 10 * row + 0.01 * m); }
static float ivar_of(int arm, int row, int m) { return (float)(1 + ((arm + row + m) % 5)); }
static int is_masked(int arm, int row, int m) { return (3 * arm + 5 * row + m) % 7 == 0; }

/* FIBERMAP, then the arms, whose pixels begin with FIRST. Masks are unsigned with the arm Z, signed with others. `leave_out` is an HDU. */
static struct fits_file *new_desi(const char *leave_out) {
  static const struct fits_column fibermap[] = {{"TARGETID", "K"}, {"OBJTYPE", "3A"}};
  struct fits_file *f = fits_file_new();
  unsigned char rows[ROWS * 11] = {0};
  for (int i = 0; i < ROWS; i++) {
    const uint64_t id = spd_big64(39627866878511337ull + (uint64_t)i);
    memcpy(rows + 11 * i, &id, 8);
    memcpy(rows + 11 * i + 8, "TGT", 3);
  }
  spd_fits_add(&f->header, "SIMPLE  =                    T");
  spd_fits_add_integer(&f->header, "BITPIX", 8);
  spd_fits_add_integer(&f->header, "NAXIS", 0);
  spd_fits_add_text(&f->header, "SURVEY", "sv3");
  spd_fits_add_integer(&f->header, "HPXPIXEL", 26065);
  fits_file_add(f, NULL, 0);
  fits_file_table(f, fibermap, 2, 11, ROWS);
  spd_fits_add_text(&f->header, "EXTNAME", "FIBERMAP");
  fits_file_add(f, rows, sizeof rows);
  for (int a = 0; a < 3; a++) {
    static const char *const planes[] = {"WAVELENGTH", "FLUX", "IVAR", "MASK"};
    for (int p = 0; p < 4; p++) {
      unsigned char pixels[ROWS * WIDTH * 8];
      char name[16];
      snprintf(name, sizeof name, "%c_%s", arms[a], planes[p]);
      if (leave_out && strcmp(name, leave_out) == 0) continue;
      for (int i = 0; i < ROWS * WIDTH; i++) {
        const int row = i / WIDTH, m = i % WIDTH;
        const float value = p == 1 ? flux_of(a, row, m) : ivar_of(a, row, m);
        if (p == 0)
          spd_put_double(pixels + 8 * i, SPD_DESI_FIRST + SPD_DESI_STEP * (FIRST + a * (WIDTH - OVERLAP) + m));
        else if (p == 3)
          spd_put_int(pixels + 4 * i, (a == 2 ? INT32_MIN : 0) + (is_masked(a, row, m) ? 1 << (m % 31) : 0));
        else
          spd_put_floats(pixels + 4 * i, &value, 1);
      }
      fits_file_image(f, name, p == 0 ? -64 : p == 3 ? 32 : -32, WIDTH, p == 0 ? 1 : ROWS);
      if (p == 3 && a == 2) spd_fits_add_integer(&f->header, "BZERO", 2147483648);
      fits_file_add(f, pixels, p == 0 ? WIDTH * 8 : sizeof pixels / 2);
    }
  }
  return f;
}

/* The formula, for one pixel of the grid: rows are those of one spectrum */
static void expect_pixel(double *flux, double *ivar, const size_t *rows, size_t n, int pixel) {
  *flux = *ivar = 0;
  for (int a = 0; a < 3; a++) {
    const int m = pixel - a * (WIDTH - OVERLAP);
    for (size_t i = 0; i < n && m >= 0 && m < WIDTH; i++) {
      if (is_masked(a, (int)rows[i], m)) continue;
      *flux += (double)ivar_of(a, (int)rows[i], m) * flux_of(a, (int)rows[i], m);
      *ivar += ivar_of(a, (int)rows[i], m);
    }
  }
  *flux = *ivar > 0 ? *flux / *ivar : 0;
}

static void test_coadd(void) {
  struct fits_file *f = new_desi(NULL);
  struct spd_desi *desi, *again;
  struct spd_desi_facts facts;
  double flux[2 * GRID], ivar[2 * GRID], flux_again[2 * GRID], ivar_again[2 * GRID];
  fits_file_write(f, path, 0);
  MUST(spd_desi_open(&desi, path, error));
  MUST(spd_desi_reopen(&again, desi, error));
  spd_desi_describe(&facts, desi);
  CHECK(facts.n_rows == ROWS && strcmp(facts.arms, "BRZ") == 0 && strcmp(facts.survey, "sv3") == 0 && facts.program[0] == '\0' &&
            facts.healpix == 26065 && isnan(facts.tile),
        "%zu rows, arms '%s', survey '%s', program '%s', healpix %g, tile %g", facts.n_rows, facts.arms, facts.survey, facts.program,
        facts.healpix, facts.tile);
  const size_t rows[] = {2, 0, 1}, begin[] = {0, 2, 3}; /* two exposures of one target, and another */
  const int cut = 5, beyond = 20;                       /* a grid that begins within the first arm and ends after the last one */
  const struct spd_uniform_grid grids[] = {{SPD_DESI_FIRST + SPD_DESI_STEP * FIRST, SPD_DESI_STEP, GRID},
                                           {SPD_DESI_FIRST + SPD_DESI_STEP * (FIRST + cut), SPD_DESI_STEP, GRID},
                                           {SPD_DESI_FIRST + SPD_DESI_STEP * (FIRST - beyond), SPD_DESI_STEP, GRID}};
  const int shifts[] = {0, cut, -beyond};
  for (int g = 0; g < 3; g++) {
    MUST(spd_desi_coadd(flux, ivar, desi, grids[g], rows, begin, 2, error));
    MUST(spd_desi_coadd(flux_again, ivar_again, again, grids[g], rows, begin, 2, error));
    CHECK(memcmp(flux, flux_again, sizeof flux) == 0 && memcmp(ivar, ivar_again, sizeof ivar) == 0, "two handles read different pixels");
    double worst = 0;
    for (int i = 0; i < 2; i++)
      for (int m = 0; m < GRID; m++) {
        double y, w;
        expect_pixel(&y, &w, rows + begin[i], begin[i + 1] - begin[i], m + shifts[g]);
        worst = fmax(worst, fabs(flux[i * GRID + m] - y) + fabs(ivar[i * GRID + m] - w));
      }
    CHECK(worst < 1e-13, "grid %d: off by %g", g, worst);
  }
  spd_desi_close(again);
  spd_desi_close(desi);
  free(f);
}

/* Bits and states of two spectra, the first of two exposures, on a grid that begins before the first arm */
static void test_masks(void) {
  struct fits_file *f = new_desi(NULL);
  struct spd_desi *desi;
  enum { BEFORE = 4 };
  const size_t rows[] = {2, 0, 1}, begin[] = {0, 2, 3};
  const struct spd_uniform_grid grid = {SPD_DESI_FIRST + SPD_DESI_STEP * (FIRST - BEFORE), SPD_DESI_STEP, GRID};
  uint32_t bits[2 * GRID];
  unsigned char state[2 * GRID];
  fits_file_write(f, path, 0);
  MUST(spd_desi_open(&desi, path, error));
  MUST(spd_desi_masks(bits, state, desi, grid, rows, begin, 2, error));
  size_t wrong = 0;
  for (int i = 0; i < 2; i++)
    for (int m = 0; m < GRID; m++) {
      uint32_t want = 0;
      for (int a = 0; a < 3; a++)
        for (size_t k = begin[i]; k < begin[i + 1]; k++) {
          const int at = m - BEFORE - a * (WIDTH - OVERLAP);
          if (at >= 0 && at < WIDTH && is_masked(a, (int)rows[k], at)) want |= UINT32_C(1) << (at % 31);
        }
      wrong += bits[i * GRID + m] != want || state[i * GRID + m] != (m < BEFORE ? 0 : SPD_DESI_PIXEL_THERE);
    }
  CHECK(wrong == 0, "%zu pixels have other bits or states", wrong);
  spd_desi_close(desi);
  free(f);
}

enum { DIAGONALS = 5 };

static float matrix_of(int arm, int row, int k, int m) {
  return k == 1 && m == 7 ? NAN : (float)(0.1 * k + 0.01 * ((arm + 2 * row + 3 * m) % 11));
}

static void add_matrices(struct fits_file *f) {
  for (int a = 0; a < 3; a++) {
    static unsigned char pixels[ROWS * DIAGONALS * WIDTH * 4];
    const char name[] = {arms[a], '_', 'R', 'E', 'S', 'O', 'L', 'U', 'T', 'I', 'O', 'N', '\0'};
    for (int i = 0; i < ROWS * DIAGONALS * WIDTH; i++) {
      const float value = matrix_of(a, i / (DIAGONALS * WIDTH), i / WIDTH % DIAGONALS, i % WIDTH);
      spd_put_floats(pixels + 4 * i, &value, 1);
    }
    spd_fits_add(&f->header, "XTENSION= 'IMAGE   '");
    spd_fits_add_integer(&f->header, "BITPIX", -32);
    spd_fits_add_integer(&f->header, "NAXIS", 3);
    spd_fits_add_integer(&f->header, "NAXIS1", WIDTH);
    spd_fits_add_integer(&f->header, "NAXIS2", DIAGONALS);
    spd_fits_add_integer(&f->header, "NAXIS3", ROWS);
    spd_fits_add_integer(&f->header, "PCOUNT", 0);
    spd_fits_add_integer(&f->header, "GCOUNT", 1);
    spd_fits_add_text(&f->header, "EXTNAME", name);
    fits_file_add(f, pixels, sizeof pixels);
  }
}

/* Element k of pixel m of the grid by its definition: the mean of what pixel m + k - DIAGONALS / 2 contributes in the arms' matrices */
static double expect_element(const size_t *rows, size_t n, int m, int k) {
  double sum = 0, total = 0;
  for (int a = 0; a < 3; a++)
    for (size_t i = 0; i < n; i++) {
      const int at = m - a * (WIDTH - OVERLAP), from = at + k - DIAGONALS / 2;
      if (at < 0 || at >= WIDTH) continue;
      const double weight = is_masked(a, (int)rows[i], at) ? 1e-30 : ivar_of(a, (int)rows[i], at);
      total += weight;
      if (from < 0 || from >= WIDTH) continue;
      const float value = matrix_of(a, (int)rows[i], DIAGONALS - 1 - k, from);
      if (isfinite(value)) sum += weight * value;
    }
  return total > 0 ? sum / total : 0;
}

static void test_resolution(void) {
  struct fits_file *f = new_desi(NULL);
  struct spd_desi *desi;
  static double band[2 * DIAGONALS * GRID], total[2 * GRID];
  const size_t rows[] = {2, 0, 1}, begin[] = {0, 2, 3};
  const int shifts[] = {0, 5, -20, WIDTH, -GRID};
  add_matrices(f);
  fits_file_write(f, path, 0);
  MUST(spd_desi_open(&desi, path, error));
  for (int g = 0; g < 5; g++) { /* grids that begin before, within and after the first arm, and one that has none of them */
    const struct spd_uniform_grid grid = {SPD_DESI_FIRST + SPD_DESI_STEP * (FIRST + shifts[g]), SPD_DESI_STEP, GRID};
    MUST(spd_desi_resolution(band, total, desi, grid, rows, begin, 2, error));
    double worst = 0;
    for (int i = 0; i < 2; i++)
      for (int k = 0; k < DIAGONALS; k++)
        for (int m = 0; m < GRID; m++)
          worst = fmax(worst, fabs(band[(i * DIAGONALS + k) * GRID + m] -
                                   expect_element(rows + begin[i], begin[i + 1] - begin[i], m + shifts[g], k)));
    CHECK(worst < 1e-14, "grid %d: off by %g", g, worst);
  }
  spd_desi_close(desi);
  free(f);
}

static void test_refused(void) {
  static const char *const needed[] = {"B_FLUX", "R_IVAR", "Z_WAVELENGTH"};
  struct spd_desi *desi;
  for (int i = 0; i < 3; i++) {
    struct fits_file *f = new_desi(needed[i]);
    fits_file_write(f, path, 0);
    CHECK_STATUS(spd_desi_open(&desi, path, error), SPD_STATUS_FORMAT, needed[i]);
    free(f);
  }
  struct fits_file *f = new_desi("R_MASK");
  fits_file_write(f, path, 0);
  MUST(spd_desi_open(&desi, path, error));
  spd_desi_close(desi);
  fits_file_write(f, path, 3 * SPD_FITS_BLOCK);
  CHECK_STATUS(spd_desi_open(&desi, path, error), SPD_STATUS_FORMAT, "no HDU B_WAVELENGTH");
  free(f);
}

/* ---- compressed masks ---- */

static void write_bytes(const unsigned char *bytes, size_t n) {
  FILE *file = fopen(path, "wb");
  if (!file || fwrite(bytes, 1, n, file) != n) exit(2);
  fclose(file);
}

/* The file with its masks compressed in tiles by CFITSIO; returns its size. */
static size_t pack(unsigned char *packed, size_t most, int type) {
  int status = 0, n_hdus = 0;
  fitsfile *from, *to;
  struct fits_file *f = new_desi(NULL);
  fits_file_write(f, path, 0);
  free(f);
  unlink("test-desi-packed.tmp");
  fits_open_diskfile(&from, path, READONLY, &status);
  fits_create_diskfile(&to, "test-desi-packed.tmp", &status);
  fits_set_compression_type(to, type, &status);
  fits_get_num_hdus(from, &n_hdus, &status);
  for (int i = 1; i <= n_hdus && !status; i++) {
    char name[FLEN_VALUE] = "";
    fits_movabs_hdu(from, i, NULL, &status);
    if (i > 1) fits_read_key(from, TSTRING, "EXTNAME", name, NULL, &status);
    if (strstr(name, "MASK"))
      fits_img_compress(from, to, &status);
    else
      fits_copy_hdu(from, to, 0, &status);
  }
  fits_close_file(from, &status);
  fits_close_file(to, &status);
  FILE *file = fopen("test-desi-packed.tmp", "rb");
  const size_t n = status || !file ? 0 : fread(packed, 1, most, file);
  if (file) fclose(file);
  unlink("test-desi-packed.tmp");
  CHECK(n > 0, "CFITSIO does not write a compressed file (status %d)", status);
  return n;
}

static void test_packed(void) {
#ifdef SPD_HAVE_ZLIB
  static const int types[] = {RICE_1, GZIP_1, GZIP_2};
#else
  static const int types[] = {RICE_1};
#endif
  static unsigned char packed[FITS_FILE_MOST / 2];
  const struct spd_uniform_grid grid = {SPD_DESI_FIRST + SPD_DESI_STEP * FIRST, SPD_DESI_STEP, GRID};
  const size_t rows[] = {0, 1, 2}, begin[] = {0, 1, 2, 3};
  double flux[2][ROWS * GRID], ivar[2][ROWS * GRID];
  struct spd_desi *desi;
  for (size_t k = 0; k < sizeof types / sizeof types[0]; k++) {
    const size_t n = pack(packed, sizeof packed, types[k]); /* leaves the file itself at `path` */
    for (int is_packed = 0; is_packed < 2; is_packed++) {
      if (is_packed) write_bytes(packed, n);
      MUST(spd_desi_open(&desi, path, error));
      MUST(spd_desi_coadd(flux[is_packed], ivar[is_packed], desi, grid, rows, begin, ROWS, error));
      spd_desi_close(desi);
    }
    CHECK(memcmp(flux[0], flux[1], sizeof flux[0]) == 0 && memcmp(ivar[0], ivar[1], sizeof ivar[0]) == 0,
          "method %d: another spectrum than with masks that are not compressed", types[k]);
  }
}

/* ---- files changed at random ---- */

static uint64_t draws;
static size_t draw(size_t n) { return (size_t)spd_below(spd_mix64(draws++), n); }

/* One to four changes of n bytes, of which there is room for twice as many; returns how many there are then. */
static size_t mutate(unsigned char *bytes, size_t n) {
  static const char digits[] = "0123456789-+.EDTFX' ";
  static const size_t sizes[] = {1, 4, SPD_FITS_CARD, SPD_FITS_BLOCK};
  const size_t most = 2 * n;
  for (size_t k = draw(4) + 1; k > 0 && n > 200; k--) {
    const size_t at = draw(n), wanted = sizes[draw(4)], size = wanted < n - at ? wanted : n - at;
    switch (draw(6)) {
      case 0: bytes[at] ^= (unsigned char)(1u << draw(8)); break;
      case 1:
        for (size_t i = 0; i < size; i++) bytes[at + i] = (unsigned char)draw(256);
        break;
      case 2: bytes[draw(n)] = (unsigned char)digits[draw(sizeof digits - 1)]; break;
      case 3: n = at; break;
      case 4:
        if (n + size > most) break;
        memmove(bytes + at + size, bytes + at, n - at);
        n += size;
        break;
      default: memset(bytes + at, draw(2) ? 0xff : 0, size);
    }
  }
  return n;
}

static int use_desi(void) {
  struct spd_error error;
  struct spd_desi *desi;
  struct spd_desi_facts facts;
  static double flux[ROWS * GRID], ivar[ROWS * GRID];
  const struct spd_uniform_grid grid = {SPD_DESI_FIRST + SPD_DESI_STEP * FIRST, SPD_DESI_STEP, GRID};
  const size_t rows[] = {0, 1, 2}, begin[] = {0, 1, 2, 3};
  if (spd_desi_open(&desi, path, &error) != SPD_STATUS_OK) return 0;
  spd_desi_describe(&facts, desi);
  static uint32_t bits[ROWS * GRID];
  static unsigned char state[ROWS * GRID];
  static double band[SPD_DESI_MAX_DIAGONALS * ROWS * GRID];
  const size_t n = facts.n_rows < ROWS ? facts.n_rows : ROWS;
  const spd_status status = spd_desi_coadd(flux, ivar, desi, grid, rows, begin, n, &error);
  (void)spd_desi_masks(bits, state, desi, grid, rows, begin, n, &error);
  (void)spd_desi_resolution(band, flux, desi, grid, rows, begin, n, &error);
  spd_desi_close(desi);
  return status == SPD_STATUS_OK;
}

static int use_table(void) {
  static const char *const names[] = {"TARGETID", "OBJTYPE"};
  struct spd_error error;
  struct spd_catalogue *catalogue;
  struct spd_catalogue_column column;
  char texts[ROWS * 1000];
  int read = 0;
  if (spd_catalogue_open(&catalogue, path, "FIBERMAP", 0, &error) != SPD_STATUS_OK) return 0;
  for (int i = 0; i < 2 && spd_catalogue_rows(catalogue) >= ROWS; i++)
    if (spd_catalogue_find(&column, catalogue, names[i], &error) == SPD_STATUS_OK && column.number &&
        (column.kind == SPD_CATALOGUE_TEXT || column.kind == SPD_CATALOGUE_INTEGER64) && column.width < 1000)
      read += spd_catalogue_texts(texts, catalogue, &column, 0, ROWS, &error) == SPD_STATUS_OK;
  spd_catalogue_close(catalogue);
  return read == 2;
}

static void test_changed(const char *kind, const unsigned char *bytes, size_t n, int (*use)(void)) {
  const char *wanted = getenv("SPENDER_MUTATIONS");
  const long mutations = wanted ? atol(wanted) : 300;
  struct fits_file *f = fits_file_new();
  long read = 0;
  write_bytes(bytes, n);
  CHECK(use(), "%s: the file is not read before it is changed", kind);
  for (long i = 0; i < mutations; i++) {
    memcpy(f->bytes, bytes, n);
    const size_t size = mutate(f->bytes, n);
    if (size == 0) continue;
    write_bytes(f->bytes, size);
    read += use();
  }
  CHECK(read < mutations, "%s: all of %ld changed files are read", kind, mutations);
  free(f);
}

static void test_mutations(void) {
  static unsigned char packed[FITS_FILE_MOST / 2];
  const char *seed = getenv("SPENDER_MUTATION_SEED");
  draws = spd_mix64(seed ? strtoull(seed, NULL, 10) : 1);
  struct fits_file *f = new_desi(NULL);
  test_changed("plain", f->bytes, f->size, use_desi);
  test_changed("table", f->bytes, f->size, use_table);
  add_matrices(f);
  test_changed("matrices", f->bytes, f->size, use_desi);
  free(f);
  test_changed("rice", packed, pack(packed, sizeof packed, RICE_1), use_desi);
#ifdef SPD_HAVE_ZLIB
  test_changed("gzip", packed, pack(packed, sizeof packed, GZIP_2), use_desi);
#endif
  unlink(path);
}

#else

/* A build without CFITSIO says what is missing. */
static void test_coadd(void) {
  struct spd_desi *desi;
  CHECK_STATUS(spd_desi_open(&desi, path, error), SPD_STATUS_UNSUPPORTED, "install CFITSIO");
}
static void test_packed(void) {}
static void test_masks(void) {}
static void test_resolution(void) {}
static void test_refused(void) {}
static void test_mutations(void) {}

#endif

int main(void) {
  test_rice();
  test_coadd();
  test_packed();
  test_masks();
  test_resolution();
  test_refused();
  test_mutations();
  return check_end();
}
