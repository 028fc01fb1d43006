/* The CPU backend, for those who create one. */
#ifndef SPD_CPU_CREATE_H
#define SPD_CPU_CREATE_H

#include "network/backend.h"

spd_status spd_cpu_create(struct spd_backend **backend, int threads, struct spd_error *error);
/* Name of the instruction set that convolutions use on this processor. */
const char *spd_cpu_instructions(void);

#endif
