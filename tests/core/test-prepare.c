/* How a measured spectrum is prepared, each rule by itself, and the median behind the norm. */
#include "check.h"
#include "core/median.h"
#include "data/prepare.h"

enum { M = 9 };

static void test_median(void) {
  double odd[] = {5, 1, 4, 2, 3}, even[] = {4, 1, 3, 2}, one[] = {7}, many[1001];
  CHECK(spd_median(odd, 5) == 3 && spd_median(even, 4) == 2.5 && spd_median(one, 1) == 7, "medians of 5, 4 and 1 values");
  for (int i = 0; i < 1001; i++) many[i] = (i * 7919) % 1001;
  CHECK(spd_median(many, 1001) == 500, "the median of 0 ... 1000 is %g", spd_median(many, 1001));
  for (int i = 0; i < 1001; i++) many[i] = i < 800;
  CHECK(spd_median(many, 1001) == 1, "values that repeat have the median %g", spd_median(many, 1001));
}

static void test_clean(void) {
  double flux[M] = {1, NAN, 3, INFINITY, 5, 6, 7, 8, 9}, ivar[M] = {1, 1, NAN, 1, -2, 1e-6, 1.1e-6, INFINITY, 0};
  const size_t negative = spd_prepare_clean(flux, ivar, M);
  const double want_flux[M] = {1, 0, 0, 0, 5, 6, 7, 0, 9}, want_ivar[M] = {1, 0, 0, 0, 0, 0, 1.1e-6, 0, 0};
  CHECK(negative == 1, "%zu negative inverse variances", negative);
  for (int m = 0; m < M; m++) CHECK(flux[m] == want_flux[m] && ivar[m] == want_ivar[m], "pixel %d: %g, %g", m, flux[m], ivar[m]);
}

static void test_sky(void) {
  double wave[M];
  unsigned char sky[M];
  const double lines[] = {4025, 3999, 4012}, half_widths[] = {5, 1, 2.5};
  for (int m = 0; m < M; m++) wave[m] = 4000 + 5 * m;
  spd_prepare_sky(sky, wave, M, lines, half_widths, 3);
  const unsigned char want[M] = {1, 0, 1, 0, 1, 1, 1, 0, 0};
  CHECK(memcmp(sky, want, M) == 0, "another mask than within 1 of 3999, 2.5 of 4012 and 5 of 4025");
}

static void test_normalize(void) {
  double wave[M], flux[M], ivar[M], work[M], norm;
  const unsigned char sky[M] = {0, 0, 0, 0, 1, 0, 0, 0, 0};
  for (int m = 0; m < M; m++) wave[m] = 1000 + 100 * m;
  /* at z = 0.25 the window is 1250 to 1500: pixels 3, 4 (masked), 5 */
  struct spd_preparation p = {.n_observed = M, .wave = wave, .sky = sky, .window = {1000, 1200}, .normalize = 1};
  for (int m = 0; m < M; m++) flux[m] = 2 * (m + 1), ivar[m] = 1;
  CHECK(spd_prepare_normalize(&norm, flux, ivar, work, 0.25, &p) == SPD_NORM_FOUND && norm == 10, "the norm is %g", norm);
  CHECK(flux[0] == 0.2 && ivar[0] == 100 && ivar[4] == 0, "flux %g, ivar %g, masked %g", flux[0], ivar[0], ivar[4]);
  for (int m = 0; m < M; m++) flux[m] = -1, ivar[m] = 1;
  CHECK(spd_prepare_normalize(&norm, flux, ivar, work, 0.25, &p) == SPD_NORM_NOT_POSITIVE && isnan(norm) && flux[0] == -1,
        "a negative norm");
  for (int m = 0; m < M; m++) flux[m] = 1, ivar[m] = m < 3;
  CHECK(spd_prepare_normalize(&norm, flux, ivar, work, 0.25, &p) == SPD_NORM_NO_WINDOW && isnan(norm), "a norm from outside the window");
  for (int m = 0; m < M; m++) ivar[m] = 0;
  CHECK(spd_prepare_normalize(&norm, flux, ivar, work, 0.25, &p) == SPD_NORM_NO_PIXEL, "a norm without a pixel");
  p.normalize = 0;
  for (int m = 0; m < M; m++) ivar[m] = 1;
  CHECK(spd_prepare_normalize(&norm, flux, ivar, work, 0.25, &p) == SPD_NORM_FOUND && norm == 1 && ivar[4] == 0, "normalised already: %g",
        norm);
}

static void test_place(void) {
  const struct spd_uniform_grid grid = {3.6, 1e-4, 6};
  const float flux[] = {1, 2, 3, 4}, ivar[] = {1, 1, 1, 1}, loglam[] = {3.5999f, 3.6f, 3.6001f, 3.6002f},
              shifted[] = {3.6f, 3.60013f, 3.6002f, 3.6003f};
  const int32_t mask[] = {0, 0, 1, 0};
  double y[6], w[6];
  CHECK(spd_prepare_place(y, w, grid, flux, ivar, loglam, mask, 4) == 0, "pixels of the grid are misplaced");
  const double want_flux[] = {2, 3, 4, 0, 0, 0}, want_ivar[] = {1, 0, 1, 0, 0, 0};
  for (int m = 0; m < 6; m++) CHECK(y[m] == want_flux[m] && w[m] == want_ivar[m], "pixel %d: %g, %g", m, y[m], w[m]);
  CHECK(spd_prepare_place(y, w, grid, flux, ivar, shifted, mask, 4) != 0, "pixels with another step are placed");
}

static void test_sn(void) {
  const double flux[M] = {1, 2, 3, 4, 5, 6, 7, 8, 9}, ivar[M] = {4, 4, 4, 0, 0, 0, 0, 0, 0}, none[M] = {0};
  double work[M], sn;
  CHECK(spd_prepare_sn(&sn, flux, ivar, work, M) == 3 && sn == 4, "signal to noise %g", sn);
  CHECK(spd_prepare_sn(&sn, flux, none, work, M) == 0 && isnan(sn), "signal to noise %g of nothing", sn);
}

int main(void) {
  test_median();
  test_clean();
  test_sky();
  test_normalize();
  test_place();
  test_sn();
  return check_end();
}
