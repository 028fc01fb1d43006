/* What is read through CFITSIO: per-object files of SDSS, catalogues, images; and what is refused. */
#include "data/catalogue.h"
#include "data/image.h"
#include "data/sdss.h"
#include "fits-files.h"

static const char *const path = "test-sdss.fits.tmp";

#ifdef SPD_HAVE_CFITSIO

enum { PIXELS = 50 };

/* HDU 1: flux, loglam, ivar, and both masks; HDU 2: a row */
static struct fits_file *new_sdss(double z) {
  static const struct fits_column coadd[] = {{"flux", "E"}, {"loglam", "E"}, {"ivar", "E"}, {"and_mask", "J"}, {"OR_MASK", "J"}};
  static const struct fits_column object[] = {{"PLATE", "J"}, {"MJD", "J"}, {"FIBERID", "J"}, {"CLASS", "6A"}, {"Z", "D"}};
  struct fits_file *f = fits_file_new();
  unsigned char pixels[PIXELS * 20] = {0}, row[26] = {0};
  for (int i = 0; i < PIXELS; i++) {
    const float values[3] = {(float)i, (float)(3.6 + 1e-4 * i), 2};
    spd_put_floats(pixels + 20 * i, values, 3);
    spd_put_int(pixels + 20 * i + 12, i == 3 ? 64 : 0);
    spd_put_int(pixels + 20 * i + 16, i == 3 || i == 5 ? 1 << 23 : 0);
  }
  spd_put_int(row, 266), spd_put_int(row + 4, 51602), spd_put_int(row + 8, 13);
  memcpy(row + 12, "GALAXY", 6);
  spd_put_double(row + 18, z);
  fits_file_primary(f);
  fits_file_table(f, coadd, 5, 20, PIXELS);
  fits_file_add(f, pixels, sizeof pixels);
  fits_file_table(f, object, 5, 26, 1);
  fits_file_add(f, row, sizeof row);
  return f;
}

static void test_sdss(void) {
  static struct spd_sdss_pixels pixels;
  struct spd_sdss_object object;
  struct fits_file *f = new_sdss(0.125);
  fits_file_write(f, path, 0);
  MUST(spd_sdss_read(&pixels, &object, path, "and_mask", error));
  size_t wrong = 0;
  for (int i = 0; i < PIXELS; i++)
    wrong += pixels.flux[i] != (float)i || pixels.ivar[i] != 2 || pixels.loglam[i] != (float)(3.6 + 1e-4 * i) || pixels.mask[i] != (i == 3);
  CHECK(pixels.n == PIXELS && wrong == 0, "%zu pixels, %zu of them wrong", pixels.n, wrong);
  CHECK(object.plate == 266 && object.mjd == 51602 && object.fiber == 13 && object.z == 0.125, "plate %d, mjd %d, fiber %d, z %g",
        object.plate, object.mjd, object.fiber, object.z);
  CHECK(strcmp(object.class_name, "GALAXY") == 0 && object.subclass[0] == '\0', "class '%s', subclass '%s'", object.class_name,
        object.subclass);
  CHECK(isnan(object.z_err) && object.field == SPD_SDSS_UNKNOWN, "columns that are absent have values");
  MUST(spd_sdss_read(&pixels, &object, path, "or_mask", error));
  for (int i = 0; i < PIXELS; i++) wrong += pixels.mask[i] != (i == 3 || i == 5);
  CHECK(wrong == 0, "%zu pixels of or_mask are wrong", wrong);
  size_t accepted = 0;
  for (size_t size = 1; size < f->size - SPD_FITS_BLOCK; size += 97) { /* cut anywhere before the data of HDU 2 */
    struct spd_error error;
    fits_file_write(f, path, size);
    accepted += spd_sdss_read(&pixels, &object, path, "and_mask", &error) == SPD_STATUS_OK;
  }
  CHECK(accepted == 0, "%zu cut files are accepted", accepted);
  free(f);
  const double bad[] = {NAN, -1, INFINITY};
  for (size_t i = 0; i < 3; i++) {
    f = new_sdss(bad[i]);
    fits_file_write(f, path, 0);
    CHECK_STATUS(spd_sdss_read(&pixels, &object, path, "and_mask", error), SPD_STATUS_FORMAT, "no redshift");
    free(f);
  }
  unlink(path);
  CHECK_STATUS(spd_sdss_read(&pixels, &object, path, "and_mask", error), SPD_STATUS_IO, "test-sdss.fits.tmp cannot be opened");
}

static void test_catalogue(void) {
  static const struct fits_column columns[] = {{"Z", "D"}, {"GOOD", "L"}, {"NAME", "4A"}, {"LONGID", "K"}, {"PAIR", "2E"}};
  enum { ROW = 8 + 1 + 4 + 8 + 8, ROWS = 3 };
  unsigned char rows[ROWS * ROW] = {0};
  for (int i = 0; i < ROWS; i++) {
    unsigned char *row = rows + i * ROW;
    const uint64_t id = spd_big64(9007199254740993ull + (uint64_t)i); /* beyond what a double holds */
    spd_put_double(row, i == 1 ? NAN : 0.5 * i);
    row[8] = i == 0 ? 'T' : i == 1 ? 'F' : 0;
    memcpy(row + 9, i == 2 ? "    " : "ab  ", 4);
    memcpy(row + 13, &id, 8);
  }
  struct fits_file *f = fits_file_new();
  fits_file_primary(f);
  fits_file_table(f, columns, 5, ROW, ROWS);
  fits_file_add(f, rows, sizeof rows);
  fits_file_write(f, path, 0);
  struct spd_catalogue *catalogue;
  struct spd_catalogue_column column;
  double z[ROWS];
  signed char good[ROWS];
  char names[ROWS * 5], ids[ROWS * 64];
  MUST(spd_catalogue_open(&catalogue, path, NULL, 2, error));
  CHECK(spd_catalogue_rows(catalogue) == ROWS, "%llu rows", (unsigned long long)spd_catalogue_rows(catalogue));
  MUST(spd_catalogue_find(&column, catalogue, "z", error)); /* in another case */
  MUST(spd_catalogue_numbers(z, catalogue, &column, 0, ROWS, error));
  CHECK(z[0] == 0 && isnan(z[1]) && z[2] == 1, "numbers %g, %g, %g", z[0], z[1], z[2]);
  MUST(spd_catalogue_find(&column, catalogue, "GOOD", error));
  MUST(spd_catalogue_logicals(good, catalogue, &column, 0, ROWS, error));
  CHECK(good[0] == 1 && good[1] == 0 && good[2] == -1, "logicals %d, %d, %d", good[0], good[1], good[2]);
  MUST(spd_catalogue_find(&column, catalogue, "NAME", error));
  CHECK(column.kind == SPD_CATALOGUE_TEXT && column.width == 4, "a text of %zu bytes", column.width);
  MUST(spd_catalogue_texts(names, catalogue, &column, 0, ROWS, error));
  CHECK(strcmp(names, "ab") == 0 && names[10] == '\0', "texts '%s', '%s'", names, names + 10);
  MUST(spd_catalogue_find(&column, catalogue, "LONGID", error));
  CHECK(column.kind == SPD_CATALOGUE_INTEGER64 && column.width < 64, "64-bit integers are of kind %d", (int)column.kind);
  MUST(spd_catalogue_texts(ids, catalogue, &column, 0, ROWS, error));
  CHECK(strcmp(ids, "9007199254740993") == 0, "a 64-bit integer is '%s'", ids);
  MUST(spd_catalogue_find(&column, catalogue, "NONE", error));
  CHECK(column.number == 0, "a column is found where there is none");
  CHECK_STATUS(spd_catalogue_find(&column, catalogue, "PAIR", error), SPD_STATUS_FORMAT, "'PAIR' that is not one value a row");
  spd_catalogue_close(catalogue);
  CHECK_STATUS(spd_catalogue_open(&catalogue, path, NULL, 1, error), SPD_STATUS_FORMAT, "test-sdss.fits.tmp");
  free(f);
  unlink(path);
}

static void test_image(void) {
  struct fits_file *f = fits_file_new();
  const float values[6] = {1, 2, 3, 4, 5, 6};
  unsigned char pixels[24];
  struct spd_image image;
  spd_put_floats(pixels, values, 6);
  spd_fits_add(&f->header, "SIMPLE  =                    T");
  spd_fits_add_integer(&f->header, "BITPIX", -32);
  spd_fits_add_integer(&f->header, "NAXIS", 2);
  spd_fits_add_integer(&f->header, "NAXIS1", 3);
  spd_fits_add_integer(&f->header, "NAXIS2", 2);
  spd_fits_add(&f->header, "COEFF0  =                  3.5");
  spd_fits_add(&f->header, "COEFF1  =               0.0001");
  fits_file_add(f, pixels, sizeof pixels);
  fits_file_write(f, path, 0);
  MUST(spd_image_read(&image, path, 1, error));
  CHECK(image.width == 3 && image.height == 2 && image.is_log && image.first == 3.5 && image.step == 1e-4,
        "%zu by %zu, log %d, from %g by %g", image.width, image.height, image.is_log, image.first, image.step);
  for (int i = 0; i < 6; i++) CHECK(image.pixels[i] == i + 1, "pixel %d is %g", i, image.pixels[i]);
  spd_image_free(&image);
  CHECK_STATUS(spd_image_read(&image, path, 2, error), SPD_STATUS_FORMAT, "no image in HDU 2");
  free(f);
  unlink(path);
}

#else

/* A build without CFITSIO says what is missing. */
static void test_sdss(void) {
  static struct spd_sdss_pixels pixels;
  struct spd_sdss_object object;
  CHECK_STATUS(spd_sdss_read(&pixels, &object, path, "and_mask", error), SPD_STATUS_UNSUPPORTED, "install CFITSIO");
}
static void test_catalogue(void) {
  struct spd_catalogue *catalogue;
  CHECK_STATUS(spd_catalogue_open(&catalogue, path, NULL, 2, error), SPD_STATUS_UNSUPPORTED, "install CFITSIO");
}
static void test_image(void) {
  struct spd_image image;
  CHECK_STATUS(spd_image_read(&image, path, 1, error), SPD_STATUS_UNSUPPORTED, "install CFITSIO");
}

#endif

int main(void) {
  test_sdss();
  test_catalogue();
  test_image();
  return check_end();
}
