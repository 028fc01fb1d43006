/* The one table of tolerances: |got - want| <= atol + rtol |want|. Inputs are of order 1, arithmetic is float32. Never widened in
 * a commit that changes a kernel.
 *
 * Where products are made with tf32 or bf16 operands, tolerance_precision names it, and what goes through such products is
 * compared by the norm: ||got - want|| <= rtol ||want||, with the rows whose names end in it. An operand's rounding is 2^-10 (some
 * GPUs cut tf32 off) or 2^-8 of it at most; where it changes the winner of a max-pool, a gradient goes to another place, so gradients get
 * more. */
#ifndef SPD_TEST_TOLERANCES_H
#define SPD_TEST_TOLERANCES_H

#include "check.h"

static const struct check_tolerance check_tolerances[] = {
    /* stages against their float64 vectors */
    {"stem", 4e-6, 1e-5},
    {"stem gradient", 2e-5, 2e-5},
    {"block", 4e-6, 1e-5},
    {"block gradient", 2e-5, 2e-5},
    {"attend", 1e-6, 1e-5},
    {"attend gradient", 2e-6, 1e-5},
    {"dense", 2e-6, 5e-6},
    {"dense gradient", 5e-6, 1e-5},
    {"resample", 5e-7, 2e-6},
    {"resample gradient", 1e-6, 5e-6},
    {"redshift gradient", 1e-4, 5e-6},
    {"lsf", 1e-6, 2e-6},
    {"lsf gradient", 2e-6, 1e-5},
    {"resolution", 1e-6, 2e-6},
    {"resolution gradient", 2e-6, 1e-5},
    {"loss", 1e-9, 2e-6},
    {"loss gradient", 1e-8, 2e-6},
    {"calibrate", 1e-6, 2e-6},
    {"calibrate gradient", 1e-5, 5e-6},
    {"similarity", 1e-6, 2e-6},
    {"similarity gradient", 2e-6, 1e-5},
    {"consistency", 1e-9, 1e-6},
    {"consistency gradient", 1e-7, 2e-6},
    {"augment", 1e-6, 2e-6},
    {"log ivar", 1e-6, 1e-6},
    {"adam", 1e-7, 2e-6},
    {"schedule", 1e-15, 1e-8},
    /* the whole network against finite differences of float32 losses: relative to the derivative */
    {"finite difference", 5e-5, 1e-2},
    /* the whole network against the reference tensors */
    {"reference", 2e-5, 1e-4},
    {"reference gradient norm", 0, 1e-3},
    {"reference adam loss", 0, 1e-4},
    {"full-size latent", 1e-6, 0},
    {"full-size gradient", 0, 1e-5},
    /* a GPU against the CPU, by the norm of each tensor; products of 5376 terms may be summed in one chain, 2.5e-6 off */
    {"devices", 0, 1e-5},
    {"devices gradient", 0, 3e-5},
    {"block tf32", 0, 2e-3},
    {"block gradient tf32", 0, 2e-3},
    {"devices tf32", 0, 2e-3},
    {"devices gradient tf32", 0, 1e-1},
    {"stem bf16", 0, 8e-3},
    {"attend bf16", 0, 8e-3},
    {"attend gradient bf16", 0, 8e-3},
    {"dense bf16", 0, 1e-3}, /* large linear layers are fp16 with a scale in both */
    {"dense gradient bf16", 0, 1e-3},
    {"block bf16", 0, 8e-3},
    {"block gradient bf16", 0, 8e-3},
    {"devices bf16", 0, 1.2e-2}, /* seven roundings on the way to the segments: operands, products and results of two blocks */
    {"devices gradient bf16", 0, 2e-1},
    {"stem fp16", 0, 1e-3},
    {"attend fp16", 0, 1e-3},
    {"attend gradient fp16", 0, 1e-3},
    {"dense fp16", 0, 1e-3},
    {"dense gradient fp16", 0, 1e-3},
    {"block fp16", 0, 2e-3},
    {"block gradient fp16", 0, 2e-3},
    {"devices fp16", 0, 2e-3},
    {"devices gradient fp16", 0, 1e-1},
};

static const char *tolerance_precision; /* NULL, "tf32", "bf16" or "fp16" */

CHECK_UNUSED static const struct check_tolerance *tolerance_find(const char *name) {
  for (size_t i = 0; i < sizeof check_tolerances / sizeof *check_tolerances; i++)
    if (strcmp(check_tolerances[i].name, name) == 0) return &check_tolerances[i];
  return NULL;
}

/* The row of the present precision, if it has one of this name */
CHECK_UNUSED static const struct check_tolerance *tolerance_for(const char *name) {
  char own[80];
  const struct check_tolerance *t = NULL;
  if (tolerance_precision) snprintf(own, sizeof own, "%s %s", name, tolerance_precision), t = tolerance_find(own);
  if (!t) t = tolerance_find(name);
  if (t) return t;
  printf("no tolerance called %s\n", name);
  exit(2);
}

/* ||got - want|| / ||want||; 0 where both are zero */
CHECK_UNUSED static double check_distance(const double *got, const double *want, size_t count) {
  double squares = 0, difference = 0;
  for (size_t i = 0; i < count; i++) {
    squares += want[i] * want[i];
    difference += (got[i] - want[i]) * (got[i] - want[i]);
  }
  return squares > 0 ? sqrt(difference / squares) : difference > 0 ? HUGE_VAL : 0;
}

/* Element by element, or by the norm where the tolerance belongs to a precision */
CHECK_UNUSED static void check_tolerated(const char *file, int line, const char *what, const double *got, const double *want, size_t count,
                                         const char *name) {
  const struct check_tolerance *t = tolerance_for(name);
  if (t == tolerance_find(name)) {
    check_close(file, line, what, got, want, count, t);
    return;
  }
  const double distance = check_distance(got, want, count);
  if (distance <= t->rtol)
    check_passed++;
  else
    check_fail(file, line, "%s: %.3g of its norm off, %s allows %.3g", what, distance, t->name, t->rtol);
}
#define CHECK_TOLERATED(what, got, want, count, name) check_tolerated(__FILE__, __LINE__, what, got, want, count, name)

#endif
