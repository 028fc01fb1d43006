/* The CUDA backend, for those who create one; also in builds without CUDA. */
#ifndef SPD_CUDA_CREATE_H
#define SPD_CUDA_CREATE_H

#include "network/backend.h"

/* Rounding on a GPU. FP32: none. TF32: operands of matrix products, to 10 bits of mantissa. FP16 and BF16: planes, and the
 * operands of the products that read them, to 10 bits with a scale per gradient, or to 7 bits; large linear layers as TF32. Sums,
 * statistics, weights and the optimiser are float in all of them. */
typedef enum { SPD_PRECISION_FP32 = 0, SPD_PRECISION_TF32, SPD_PRECISION_BF16, SPD_PRECISION_FP16 } spd_precision;
enum { SPD_PRECISIONS = 4 };

struct spd_cuda_device {
  char name[256];
  size_t memory; /* bytes */
  int major, minor;
};
int spd_cuda_built(void);
/* Whether this process is a fork of one that has used CUDA, and cannot use it itself. */
int spd_cuda_forked(void);
/* Devices that can be used now: 0 without a driver, and in a forked child. */
int spd_cuda_count(void);
spd_status spd_cuda_describe(struct spd_cuda_device *description, int device, struct spd_error *error);
/* Of several devices the one that the process with this number among those of its host is to use from now on */
spd_status spd_cuda_choose(int local_rank, struct spd_error *error);
/* On the current device, the first unless CUDA_VISIBLE_DEVICES says otherwise. Streams, cuBLAS and workspaces of a destroyed backend are
 * kept, and the next one, of any precision, takes them over. Backends are created and destroyed by one thread. */
spd_status spd_cuda_create(struct spd_backend **backend, spd_precision precision, struct spd_error *error);
/* Gives back what destroyed backends have left; backends in use stay. */
void spd_cuda_release(void);

#endif
