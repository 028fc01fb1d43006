/* safetensors files: 8 bytes of length, a JSON header, then the tensors' bytes, little-endian and without gaps.
 * Format: https://github.com/huggingface/safetensors#format
 *
 * The reader trusts nothing in a file: any deviation from the format is SPD_STATUS_FORMAT with a sentence that names the file and, if
 * possible, the tensor. It allocates no more than a small multiple of the size of the header.
 */
#ifndef SPD_DATA_SAFETENSORS_H
#define SPD_DATA_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"
#include "data/dtype.h"

struct spd_safetensors_tensor {
  const char *name; /* UTF-8 */
  spd_dtype dtype;
  size_t rank, shape[SPD_TENSOR_MAX_RANK];
  size_t count;
  uint64_t begin, end; /* bytes from the end of the header */
};

struct spd_safetensors_pair {
  const char *key, *value; /* UTF-8 */
};

/* An open file. Read-only for callers; several threads may read at once. */
struct spd_safetensors {
  size_t n_tensors, n_metadata;
  struct spd_safetensors_tensor *tensors; /* in the order of their bytes */
  struct spd_safetensors_pair *metadata;  /* in the header's order */
  char *path, *header;
  uint64_t data; /* where the tensors' bytes start */
  int descriptor;
};

/* On failure *file is NULL. Tensors' bytes are read by the functions below only. */
spd_status spd_safetensors_open(struct spd_safetensors **file, const char *path, struct spd_error *error);
void spd_safetensors_close(struct spd_safetensors *file); /* NULL is allowed */

/* NULL when there is none. */
const struct spd_safetensors_tensor *spd_safetensors_find(const struct spd_safetensors *file, const char *name);
const char *spd_safetensors_metadata(const struct spd_safetensors *file, const char *key);

/* The bytes as they are, in this machine's order: (count) elements of the tensor's dtype. */
spd_status spd_safetensors_read(void *values, const struct spd_safetensors *file, const struct spd_safetensors_tensor *tensor,
                                struct spd_error *error);
/* (count), converted. float takes the four floating types only; double takes every type (I64 beyond 2^53 is rounded). */
spd_status spd_safetensors_read_float(float *values, const struct spd_safetensors *file, const struct spd_safetensors_tensor *tensor,
                                      struct spd_error *error);
spd_status spd_safetensors_read_double(double *values, const struct spd_safetensors *file, const struct spd_safetensors_tensor *tensor,
                                       struct spd_error *error);

struct spd_safetensors_item {
  const char *name;
  spd_dtype dtype;
  size_t rank, shape[SPD_TENSOR_MAX_RANK];
  const void *values; /* in this machine's byte order */
};

/* Writes a temporary file in the same folder, syncs it and renames it, so that `path` is at any time the complete old or new file (or
 * absent). An existing file is SPD_STATUS_IO unless overwrite is set. A failure leaves no file. */
spd_status spd_safetensors_write(const char *path, const struct spd_safetensors_item *items, size_t n_items,
                                 const struct spd_safetensors_pair *metadata, size_t n_metadata, int overwrite, struct spd_error *error);

#endif
