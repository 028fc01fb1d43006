/* The pickles of torch.save(): dicts, lists, tuples, numbers and texts, and tensors, whose numbers are elsewhere.
 *
 * A pickle is a program for a stack machine. This one knows the instructions that build such values, and a fixed list of names that it may
 * mention; it calls nothing. Any other instruction or name is SPD_STATUS_FORMAT with a sentence that says which. NumPy's arrays and numbers
 * are followed but not kept. What it allocates is bounded by the size of the pickle and SPD_PICKLE_MOST_VALUES.
 * Instructions: the comments of Python's pickletools. Tensors: torch/_utils.py, torch/serialization.py. */
#ifndef SPD_DATA_PICKLE_H
#define SPD_DATA_PICKLE_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"
#include "data/dtype.h"

enum { SPD_PICKLE_MOST_VALUES = 1 << 22 };

typedef enum {
  SPD_PICKLE_OPAQUE = 0, /* none, a float, what NumPy made, an integer beyond 64 bits */
  SPD_PICKLE_INTEGER,    /* booleans too */
  SPD_PICKLE_TEXT,
  SPD_PICKLE_TUPLE,
  SPD_PICKLE_LIST,
  SPD_PICKLE_DICT, /* its items are key, value, key, value, ... */
  SPD_PICKLE_TENSOR,
  SPD_PICKLE_STORAGE, /* inside a pickle: where a tensor's numbers are */
  SPD_PICKLE_NAME     /* inside a pickle: one of the known names */
} spd_pickle_kind;

/* Numbers of values and items count from 0. */
struct spd_pickle_value {
  spd_pickle_kind kind;
  union {
    int64_t integer;
    struct {
      const char *bytes; /* UTF-8, not terminated; within the pickle */
      size_t n;
    } text;
    struct {
      uint32_t first, last, n; /* items: the first and the last one, and how many */
    } items;
    size_t tensor, storage, name;
  } as;
};

struct spd_pickle_item {
  uint32_t value, next; /* next is undefined for the last one */
};

struct spd_pickle_storage {
  spd_dtype dtype;
  uint64_t count;
  const char *key; /* (key_bytes), not terminated: the file of its numbers */
  size_t key_bytes;
};

/* Element (i, j, ...) is number offset + i stride[0] + j stride[1] + ... of the storage. Nothing is checked but the rank and signs. */
struct spd_pickle_tensor {
  size_t storage, rank;
  uint64_t offset, shape[SPD_TENSOR_MAX_RANK], stride[SPD_TENSOR_MAX_RANK];
};

struct spd_pickle {
  uint32_t root; /* the value */
  size_t n_values, n_items, n_tensors, n_storages;
  struct spd_pickle_value *values;
  struct spd_pickle_item *items;
  struct spd_pickle_tensor *tensors;
  struct spd_pickle_storage *storages;
};

/* (n) bytes, which must stay where they are; `path` is for messages. On failure the pickle is empty. */
spd_status spd_pickle_read(struct spd_pickle *pickle, const unsigned char *bytes, size_t n, const char *path, struct spd_error *error);
void spd_pickle_free(struct spd_pickle *pickle);

#endif
