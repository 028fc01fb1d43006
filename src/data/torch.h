/* Files that PyTorch's torch.save() writes since version 1.6: a ZIP archive with a pickle, data.pkl, and the tensors' numbers, data/0,
 * data/1, ... Nothing in a file is run or trusted: any deviation is SPD_STATUS_FORMAT with a sentence that names the file and, if possible,
 * the tensor. */
#ifndef SPD_DATA_TORCH_H
#define SPD_DATA_TORCH_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"
#include "data/dtype.h"
#include "data/zip.h"

struct spd_torch_tensor {
  const char *name; /* UTF-8: the keys and, from 0, places in lists that lead to it, joined by dots: "model.0.encoder.conv1.0.weight" */
  spd_dtype dtype;
  size_t rank, shape[SPD_TENSOR_MAX_RANK], stride[SPD_TENSOR_MAX_RANK];
  size_t count, offset; /* elements */
  const struct spd_zip_entry *storage;
};

/* An open file. Read-only for callers; several threads may read at once. */
struct spd_torch {
  size_t n_tensors;
  struct spd_torch_tensor *tensors; /* in the pickle's order */
  struct spd_zip zip;
  int is_big; /* numbers are big-endian */
};

/* Does the file begin as one of torch.save() does, since 1.6 or before? 0 also for a file that cannot be read. */
int spd_torch_is(const char *path);

/* On failure *file is NULL. */
spd_status spd_torch_open(struct spd_torch **file, const char *path, struct spd_error *error);
void spd_torch_close(struct spd_torch *file); /* NULL is allowed */

/* (count), row-major; every type */
spd_status spd_torch_read(double *values, const struct spd_torch *file, const struct spd_torch_tensor *tensor, struct spd_error *error);

#endif
