/* A small test harness: every check counts; failures say where and with which numbers; the last line sums up.
 *
 *   static void test_this(void) { CHECK(a == b, "a is %d", a); }
 *   int main(void) { test_this(); return check_end(); }
 */
#ifndef SPD_TEST_CHECK_H
#define SPD_TEST_CHECK_H

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/status.h"

#if defined(__GNUC__)
#define CHECK_UNUSED __attribute__((unused))
#define CHECK_PRINTF __attribute__((format(printf, 3, 4), unused))
#else
#define CHECK_UNUSED
#define CHECK_PRINTF
#endif

static int check_passed, check_failed, check_skipped;

CHECK_PRINTF static void check_fail(const char *file, int line, const char *format, ...) {
  va_list args;
  check_failed++;
  printf("not ok %s:%d ", file, line);
  va_start(args, format);
  vprintf(format, args);
  va_end(args);
  printf("\n");
}

/* CHECK(condition, format, ...) */
#define CHECK(condition, ...)                      \
  do {                                             \
    if (condition)                                 \
      check_passed++;                              \
    else                                           \
      check_fail(__FILE__, __LINE__, __VA_ARGS__); \
  } while (0)

/* A call that must succeed for the rest of the program to make sense; not counted when it does. */
#define MUST(expr)                                                         \
  do {                                                                     \
    struct spd_error must_error = {""};                                    \
    struct spd_error *error = &must_error;                                 \
    if ((expr) != SPD_STATUS_OK) {                                         \
      check_fail(__FILE__, __LINE__, "%s: %s", #expr, must_error.message); \
      exit(check_end());                                                   \
    }                                                                      \
  } while (0)

/* The call fails with this status and a sentence that holds `words`. */
#define CHECK_STATUS(expr, status, words)                                                                                             \
  do {                                                                                                                                \
    struct spd_error status_error = {""};                                                                                             \
    struct spd_error *error = &status_error;                                                                                          \
    spd_status found_status = (expr);                                                                                                 \
    CHECK(found_status == (status) && strstr(status_error.message, words) != NULL, "%s: status %s, \"%s\"; wanted %s, \"%s\"", #expr, \
          spd_status_name(found_status), status_error.message, spd_status_name(status), words);                                       \
  } while (0)

CHECK_UNUSED static void check_skip(const char *what, const char *reason) {
  check_skipped++;
  printf("skip %s: %s\n", what, reason);
}

CHECK_UNUSED static int check_end(void) {
  printf("%d passed, %d failed, %d skipped\n", check_passed, check_failed, check_skipped);
  fflush(stdout);
  return check_failed ? 1 : 0;
}

struct check_tolerance {
  const char *name;
  double atol, rtol;
};

/* One check for the whole array: |got - want| <= atol + rtol |want| for every element; NaN fails. */
CHECK_UNUSED static void check_close(const char *file, int line, const char *what, const double *got, const double *want, size_t count,
                                     const struct check_tolerance *tolerance) {
  size_t bad = 0, worst = 0;
  double excess = 0;
  for (size_t i = 0; i < count; i++) {
    double allowed = tolerance->atol + tolerance->rtol * fabs(want[i]), error = fabs(got[i] - want[i]);
    if (!(error <= allowed)) {
      double ratio = isnan(error) ? HUGE_VAL : error / allowed;
      if (bad == 0 || ratio > excess) worst = i, excess = ratio;
      bad++;
    }
  }
  if (bad == 0)
    check_passed++;
  else
    check_fail(file, line, "%s: %zu of %zu off; worst at %zu: %.9g, wanted %.9g (%.3g times the tolerance)", what, bad, count, worst,
               got[worst], want[worst], excess);
}

#define CHECK_CLOSE(what, got, want, count, tolerance) check_close(__FILE__, __LINE__, what, got, want, count, tolerance)

CHECK_UNUSED static double *check_doubles(const float *values, size_t count) {
  double *copy = malloc((count + 1) * sizeof *copy);
  if (!copy) exit(2);
  for (size_t i = 0; i < count; i++) copy[i] = (double)values[i];
  return copy;
}

CHECK_UNUSED static void *check_alloc(size_t bytes) {
  void *memory = calloc(1, bytes + 1);
  if (!memory) exit(2);
  return memory;
}

#endif
