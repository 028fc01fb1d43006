/* The learning rate of each step */
#ifndef SPD_NETWORK_SCHEDULE_H
#define SPD_NETWORK_SCHEDULE_H

#include <stdint.h>

/* 1Cycle (Smith & Topin 2018) with cosine annealing: from rate/25 up to rate over the first 30 %, down to rate/25/1e4. */
struct spd_schedule {
  double rate; /* the highest */
  uint64_t total_steps;
  uint64_t steps_per_stage; /* 1: per step; steps per epoch: the rate is held through an epoch, as the published code does */
  int cycle_momentum;       /* beta1 goes 0.95 -> 0.85 -> 0.95 with the rate; otherwise it stays at 0.9 */
  int constant;             /* no schedule at all */
};
void spd_schedule_at(double *rate, double *beta1, const struct spd_schedule *schedule, uint64_t step /* from 0 */);

#endif
