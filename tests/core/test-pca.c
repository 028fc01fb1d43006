/* Principal components: each function against its formula in plain loops. */
#include "check.h"
#include "core/rng.h"
#include "measure/pca.h"

enum { N = 37, M = 90, R = 301, K = 3, WIDE = K + 1 };

static double wave[M], wave_rest[R], mean[R], basis[K * R], flux[N * M], ivar[N * M], z[N];
static double weight[N * R], difference[N * R], scores[N * K];
static struct spd_pca pca = {M, R, K, wave, wave_rest, mean, basis};

static double *doubles(size_t n) {
  double *x = calloc(n + 1, sizeof *x);
  if (!x) exit(1);
  return x;
}

static int near(double a, double b) { return fabs(a - b) <= 1e-10 * (1 + fabs(b)); }

static void set_up(void) {
  struct spd_random random = spd_random_start(1, 0, 0);
  for (int i = 0; i < M; i++) wave[i] = 4000 * exp(0.004 * i);
  for (int r = 0; r < R; r++) {
    wave_rest[r] = 2600 + 11 * r + 0.01 * r * r;
    mean[r] = 1 + 0.2 * sin(r / 20.0);
    for (int k = 0; k < K; k++) basis[k * R + r] = spd_random_uniform(&random) - 0.5;
  }
  for (int i = 0; i < N; i++) z[i] = 0.01 * i;
  for (int i = 0; i < N * M; i++) flux[i] = spd_random_uniform(&random), ivar[i] = i % 7 ? spd_random_uniform(&random) : 0;
  for (int m = 0; m < M; m++) ivar[2 * M + m] = 0, ivar[3 * M + m] = m == 40 || m == 41;
}

static void test_to_rest(void) {
  for (int i = 0; i < N; i++) {
    spd_pca_to_rest(weight + i * R, difference + i * R, &pca, flux + i * M, ivar + i * M, z[i]);
    int wrong = 0;
    for (int r = 0; r < R; r++) {
      double want = 0, product = 0;
      for (int m = 0; m + 1 < M; m++) {
        const double low = wave[m] / (1 + z[i]), high = wave[m + 1] / (1 + z[i]),
                     step = r + 1 < R ? wave_rest[r + 1] - wave_rest[r] : 16.99;
        if (!(wave_rest[r] >= low && wave_rest[r] < high)) continue;
        const double t = (wave_rest[r] - low) / (high - low);
        want = fmin(ivar[i * M + m], ivar[i * M + m + 1]) * fmin(1, step / (high - low));
        product = want * ((1 - t) * flux[i * M + m] + t * flux[i * M + m + 1] - mean[r]);
      }
      wrong += !near(weight[i * R + r], want) || !near(difference[i * R + r], product);
    }
    CHECK(wrong == 0, "%d restframe pixels of spectrum %d", wrong, i);
  }
}

/* The residual of the normal equations, damped as they are, is 0. */
static void test_scores(void) {
  double *packed = doubles(spd_pca_basis_size(&pca)), *work = doubles(spd_pca_scores_work(&pca, N)), alone[K];
  spd_pca_pack_basis(packed, &pca);
  spd_pca_scores(scores, &pca, packed, weight, difference, N, work);
  for (int i = 0; i < N; i++) {
    double a[K][K] = {{0}}, b[K] = {0}, size = 0;
    for (int j = 0; j < K; j++) {
      for (int r = 0; r < R; r++) {
        b[j] += difference[i * R + r] * basis[j * R + r];
        for (int k = 0; k < K; k++) a[j][k] += weight[i * R + r] * basis[j * R + r] * basis[k * R + r];
      }
      size += a[j][j] / K;
    }
    for (int j = 0; j < K; j++) {
      double left = 1e-9 * size * scores[i * K + j];
      for (int k = 0; k < K; k++) left += a[j][k] * scores[i * K + k];
      CHECK(fabs(left - b[j]) <= 1e-9 * (size + fabs(b[j])), "spectrum %d, component %d: %g, not %g", i, j, left, b[j]);
    }
    spd_pca_scores(alone, &pca, packed, weight + i * R, difference + i * R, 1, work);
    CHECK(memcmp(alone, scores + i * K, sizeof alone) == 0, "spectrum %d has other bits alone", i);
  }
  CHECK(scores[2 * K] == 0 && scores[2 * K + 1] == 0, "scores without weights");
  CHECK(fabs(scores[3 * K]) < 1e3 && isfinite(scores[3 * K]), "scores of two pixels: %g", scores[3 * K]);
  free(packed), free(work);
}

static void add(double *sums, int first, int n, size_t from, size_t to) {
  double *packed = doubles(spd_pca_packed_scores_size(&pca, (size_t)n));
  for (int i = 0; i < n; i++) spd_pca_pack_scores(packed, &pca, scores + (first + i) * K, (size_t)i, (size_t)n);
  spd_pca_add(sums, &pca, packed, weight + first * R, difference + first * R, (size_t)n, from, to);
  free(packed);
}

static void test_sums(void) {
  const size_t width = spd_pca_sums_width(K);
  double *once = doubles(R * width), *parts = doubles(R * width), solution[WIDE], work[WIDE * WIDE];
  add(once, 0, N, 0, R);
  add(parts, 0, 5, 0, 100), add(parts, 0, 5, 100, R);
  add(parts, 5, N - 5, 7, R), add(parts, 5, N - 5, 0, 7);
  CHECK(memcmp(once, parts, R * width * sizeof *once) == 0, "sums depend on how they are divided");
  for (int r = 0; r < R; r += 10) {
    double a[WIDE][WIDE] = {{0}}, b[WIDE] = {0}, size = 0;
    int count = 0;
    for (int i = 0; i < N; i++) {
      double s[WIDE] = {1};
      memcpy(s + 1, scores + i * K, sizeof s - sizeof *s);
      count += weight[i * R + r] > 0;
      for (int j = 0; j < WIDE; j++) {
        b[j] += difference[i * R + r] * s[j];
        for (int k = 0; k < WIDE; k++) a[j][k] += weight[i * R + r] * s[j] * s[k];
      }
    }
    spd_pca_solve(solution, once + (size_t)r * width, K, work);
    CHECK(once[(size_t)r * width + width - 1] == count, "pixel %d: %d spectra", r, count);
    for (int j = 0; j < WIDE; j++) size += a[j][j] / WIDE;
    for (int j = 0; j < WIDE; j++) {
      double left = 1e-9 * size * solution[j];
      for (int k = 0; k < WIDE; k++) left += a[j][k] * solution[k];
      CHECK(fabs(left - b[j]) <= 1e-8 * (size + fabs(b[j])), "pixel %d, component %d: %g, not %g", r, j, left, b[j]);
    }
  }
  free(once), free(parts);
}

static void test_observed(void) {
  double model[M], work[R];
  for (int i = 0; i < N; i += 9) {
    int wrong = 0;
    spd_pca_observed(model, &pca, scores + i * K, z[i], work);
    for (int m = 0; m < M; m++) {
      const double at = wave[m] / (1 + z[i]);
      double want = NAN;
      for (int r = 0; r + 1 < R; r++) {
        if (!(at >= wave_rest[r] && at <= wave_rest[r + 1])) continue;
        double y[2];
        for (int e = 0; e < 2; e++) {
          y[e] = mean[r + e];
          for (int k = 0; k < K; k++) y[e] += scores[i * K + k] * basis[k * R + r + e];
        }
        want = y[0] + (y[1] - y[0]) * (at - wave_rest[r]) / (wave_rest[r + 1] - wave_rest[r]);
      }
      wrong += isnan(want) ? !isnan(model[m]) : !near(model[m], want);
    }
    CHECK(wrong == 0, "%d pixels of the model of spectrum %d", wrong, i);
  }
}

int main(void) {
  set_up();
  test_to_rest();
  test_scores();
  test_sums();
  test_observed();
  return check_end();
}
