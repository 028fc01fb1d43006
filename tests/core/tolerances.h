/* The one table of tolerances: |got - want| <= atol + rtol |want|. Inputs are of order 1, arithmetic is float32. Never widened in
 * a commit that changes a kernel. */
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
    {"loss", 1e-9, 2e-6},
    {"loss gradient", 1e-8, 2e-6},
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
};

CHECK_UNUSED static const struct check_tolerance *tolerance_for(const char *name) {
  for (size_t i = 0; i < sizeof check_tolerances / sizeof *check_tolerances; i++)
    if (strcmp(check_tolerances[i].name, name) == 0) return &check_tolerances[i];
  printf("no tolerance called %s\n", name);
  exit(2);
}

#endif
