/* What CFITSIO alone takes for the images of a file, for bench/read-desi.R: read-fits FILE REPEATS WITH-RESOLUTION. Prints three numbers
 * for the fastest repeat, in seconds of processor time of one thread: reading the file's bytes of these HDUs (by read(2)); flux and ivar,
 * or matrices, by fits_read_img(); masks by the same, unpacked. Images are read in 16 rows at a time, as the package does. */
#define _POSIX_C_SOURCE 200809L
#include <fcntl.h>
#include <fitsio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static char buffer[1 << 24];

static int ends_with(const char *name, const char *end) {
  const size_t n = strlen(name), m = strlen(end);
  return n >= m && strcmp(name + n - m, end) == 0;
}

static int read_bytes(const char *path, LONGLONG from, LONGLONG to) {
  const int file = open(path, O_RDONLY);
  if (file < 0) return 1;
  for (LONGLONG at = from; at < to;) {
    const ssize_t got = pread(file, buffer, (size_t)(to - at < 1 << 20 ? to - at : 1 << 20), (off_t)at);
    if (got <= 0) break;
    at += got;
  }
  return close(file);
}

static int read_image(fitsfile *file, int type, const LONGLONG size[3], int *status) {
  const LONGLONG row = size[0] * size[1], at_once = 16;
  int any_null;
  for (LONGLONG i = 0; i < size[2] && !*status; i += at_once) {
    const LONGLONG n = size[2] - i < at_once ? size[2] - i : at_once;
    if (row * n * 4 > (LONGLONG)sizeof buffer) return 1;
    fits_read_img(file, type, i * row + 1, n * row, NULL, buffer, &any_null, status);
  }
  return *status;
}

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  const int repeats = atoi(argv[2]), resolved = atoi(argv[3]);
  double best[3] = {1e9, 1e9, 1e9};
  for (int k = 0; k < repeats; k++) {
    fitsfile *file;
    int status = 0, n_hdus = 0;
    double seconds[3] = {0};
    fits_open_diskfile(&file, argv[1], READONLY, &status);
    fits_get_num_hdus(file, &n_hdus, &status);
    for (int hdu = 2; hdu <= n_hdus && !status; hdu++) {
      char name[FLEN_VALUE] = "";
      int type, n_axes = 0;
      LONGLONG size[3] = {1, 1, 1}, start, data, end;
      fits_movabs_hdu(file, hdu, &type, &status);
      fits_read_key(file, TSTRING, "EXTNAME", name, NULL, &status);
      const int is_mask = ends_with(name, "_MASK"), is_matrix = ends_with(name, "_RESOLUTION");
      if (status || !(is_mask || (resolved && is_matrix) || ends_with(name, "_FLUX") || ends_with(name, "_IVAR"))) {
        status = 0;
        continue;
      }
      fits_get_img_dim(file, &n_axes, &status);
      fits_get_img_sizell(file, 3, size, &status);
      if (n_axes == 2) size[2] = size[1], size[1] = 1;
      fits_get_hduaddrll(file, &start, &data, &end, &status);
      double begun = now();
      if (status || read_bytes(argv[1], data, end)) return 1;
      seconds[0] += now() - begun;
      begun = now();
      if (is_mask) fits_set_bscale(file, 1, 0, &status);
      if (read_image(file, is_mask ? TINT : TFLOAT, size, &status)) return 1;
      seconds[is_mask ? 2 : 1] += now() - begun;
    }
    fits_close_file(file, &status);
    if (status) return 1;
    for (int i = 0; i < 3; i++)
      if (seconds[i] < best[i]) best[i] = seconds[i];
  }
  printf("%g %g %g\n", best[0], best[1], best[2]);
  return 0;
}
