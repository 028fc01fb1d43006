#include "network/schedule.h"

#include <math.h>

static double anneal(double from, double to, double fraction) {
  return to + (from - to) * (1.0 + cos(3.14159265358979323846 * fraction)) / 2.0;
}

void spd_schedule_at(double *rate, double *beta1, const struct spd_schedule *s, uint64_t step) {
  *rate = s->rate;
  *beta1 = 0.9;
  if (s->constant) return;
  const uint64_t per_stage = s->steps_per_stage ? s->steps_per_stage : 1;
  const double stages = ceil((double)s->total_steps / (double)per_stage), stage = (double)(step / per_stage);
  const double start = s->rate / 25.0, end = start / 1e4;
  /* the boundaries that PyTorch's OneCycleLR uses: the peak at 0.3 T - 1, the end at T - 1 */
  const double peak = 0.3 * stages - 1.0, last = stages - 1.0;
  if (stage <= peak) {
    double f = peak > 0 ? stage / peak : 1.0;
    *rate = anneal(start, s->rate, f);
    if (s->cycle_momentum) *beta1 = anneal(0.95, 0.85, f);
  } else {
    const double from = peak > 0 ? peak : 0.0;
    double f = last > from ? (stage - from) / (last - from) : 1.0;
    if (f > 1.0) f = 1.0;
    *rate = anneal(s->rate, end, f);
    if (s->cycle_momentum) *beta1 = anneal(0.85, 0.95, f);
  }
}
