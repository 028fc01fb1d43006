/* Types of the numbers that files of weights hold, named as in safetensors files. */
#ifndef SPD_DATA_DTYPE_H
#define SPD_DATA_DTYPE_H

#include <stddef.h>

enum { SPD_TENSOR_MAX_RANK = 8 };

typedef enum {
  SPD_DTYPE_F64 = 0,
  SPD_DTYPE_F32,
  SPD_DTYPE_F16,
  SPD_DTYPE_BF16,
  SPD_DTYPE_I64,
  SPD_DTYPE_I32,
  SPD_DTYPE_I16,
  SPD_DTYPE_I8,
  SPD_DTYPE_U8,
  SPD_DTYPE_BOOL
} spd_dtype;
enum { SPD_N_DTYPES = SPD_DTYPE_BOOL + 1 };

const char *spd_dtype_name(spd_dtype dtype); /* "F32" */
size_t spd_dtype_size(spd_dtype dtype);
int spd_dtype_find(spd_dtype *dtype, const char *name); /* 0 where there is no such type */

/* One little-endian element as a double; I64 beyond 2^53 is rounded, the others are exact. */
double spd_dtype_value(spd_dtype dtype, const unsigned char *bytes);

#endif
