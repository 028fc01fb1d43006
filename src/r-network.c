#include "r-network.h"

#include <string.h>

#include "r-entries.h"
#include "r-numbers.h"

#define FAIL_INVALID(...)                                                         \
  do {                                                                            \
    struct spd_error fail_error;                                                  \
    r_raise(spd_fail(&fail_error, SPD_STATUS_INVALID, __VA_ARGS__), &fail_error); \
  } while (0)

/* Between least and most whole numbers; returns how many. */
static size_t read_sizes(size_t *sizes, SEXP list, const char *name, int least, int most) {
  SEXP field = r_list_get(list, name);
  R_xlen_t n = Rf_xlength(field);
  if (n == 0 && least == 0) return 0;
  if (field == R_NilValue) FAIL_INVALID("the architecture lacks '%s'", name);
  if (!Rf_isNumeric(field)) FAIL_INVALID("the architecture's '%s' must be numeric", name);
  if (n < least || n > most)
    FAIL_INVALID("the architecture's '%s' must have %s%d elements, not %lld", name, least == most ? "" : "at most ", most, (long long)n);
  PROTECT(field = Rf_coerceVector(field, REALSXP));
  for (R_xlen_t i = 0; i < n; i++) {
    double value = REAL_RO(field)[i];
    if (!(value >= 0 && value <= 2147483647.0) || value != (double)(size_t)value)
      FAIL_INVALID("the architecture's '%s' must hold whole numbers that are not negative", name);
    sizes[i] = (size_t)value;
  }
  UNPROTECT(1);
  return (size_t)n;
}

static size_t read_size(SEXP list, const char *name) {
  size_t size = 0;
  read_sizes(&size, list, name, 1, 1);
  return size;
}

static int read_flag(SEXP list, const char *name) {
  SEXP field = r_list_get(list, name);
  if (!Rf_isLogical(field) || Rf_xlength(field) != 1 || LOGICAL(field)[0] == NA_LOGICAL)
    FAIL_INVALID("the architecture's '%s' must be TRUE or FALSE", name);
  return LOGICAL(field)[0];
}

void r_architecture(SEXP list, struct spd_architecture *a) {
  memset(a, 0, sizeof *a);
  if (TYPEOF(list) != VECSXP) FAIL_INVALID("an architecture must be a list");
  a->n_observed = read_size(list, "n_observed");
  a->n_rest = read_size(list, "n_rest");
  a->n_latent = read_size(list, "n_latent");
  read_sizes(a->filters, list, "filters", SPD_BLOCKS, SPD_BLOCKS);
  read_sizes(a->kernels, list, "kernels", SPD_BLOCKS, SPD_BLOCKS);
  read_sizes(a->pools, list, "pools", SPD_BLOCKS, SPD_BLOCKS);
  a->n_encoder_hidden = read_sizes(a->encoder_hidden, list, "encoder_hidden", 0, SPD_MAX_HIDDEN);
  a->n_decoder_hidden = read_sizes(a->decoder_hidden, list, "decoder_hidden", 0, SPD_MAX_HIDDEN);
  a->redshift_input = read_flag(list, "redshift_input");
  a->weight_attention = read_flag(list, "weight_attention");
  SEXP activation = r_list_get(list, "decoder_activation");
  const char *name = Rf_isString(activation) && Rf_xlength(activation) == 1 ? CHAR(STRING_ELT(activation, 0)) : "";
  a->decoder_activation = strcmp(name, "speculator") == 0   ? SPD_ACTIVATION_SPECULATOR
                          : strcmp(name, "leaky_relu") == 0 ? SPD_ACTIVATION_LEAKY
                                                            : SPD_ACTIVATION_NONE;
  if (a->decoder_activation == SPD_ACTIVATION_NONE)
    FAIL_INVALID("the architecture's '%s' must be \"speculator\" or \"leaky_relu\"", "decoder_activation");
  size_t offset = read_size(list, "decoder_offset");
  if (offset > 1) FAIL_INVALID("the architecture's '%s' must be 0 or 1", "decoder_offset");
  a->decoder_offset = (int)offset;
  a->lsf = read_size(list, "lsf");
  SEXP deviations = r_list_get(list, "calibration_sd"); /* older architectures have none */
  if (deviations != R_NilValue && TYPEOF(deviations) != REALSXP) FAIL_INVALID("the architecture's '%s' must be numeric", "calibration_sd");
  if (Rf_xlength(deviations) > SPD_MAX_CALIBRATION)
    FAIL_INVALID("the architecture's '%s' must have at most %d elements", "calibration_sd", SPD_MAX_CALIBRATION);
  a->n_calibration = (size_t)Rf_xlength(deviations);
  for (size_t i = 0; i < a->n_calibration; i++) a->calibration_sd[i] = REAL_RO(deviations)[i];
}

void r_network(SEXP list, struct spd_network *network) {
  struct spd_architecture architecture;
  struct spd_error error;
  r_architecture(list, &architecture);
  spd_status status = spd_network_init(network, &architecture, &error);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
}

const float *r_weights(SEXP weights, const struct spd_network *network) {
  if (TYPEOF(weights) != RAWSXP) FAIL_INVALID("weights must be a raw vector");
  if ((size_t)Rf_xlength(weights) != network->size * sizeof(float))
    FAIL_INVALID("the weights have %zu bytes, the architecture needs %zu", (size_t)Rf_xlength(weights), network->size * sizeof(float));
  return (const float *)RAW(weights);
}

static const char *role_name(spd_parameter_role role) {
  switch (role) {
    case SPD_PARAMETER_CONV_WEIGHT: return "conv_weight";
    case SPD_PARAMETER_CONV_BIAS: return "conv_bias";
    case SPD_PARAMETER_LINEAR_WEIGHT: return "linear_weight";
    case SPD_PARAMETER_LINEAR_BIAS: return "linear_bias";
    case SPD_PARAMETER_SLOPE: return "slope";
    case SPD_PARAMETER_BETA: return "beta";
    case SPD_PARAMETER_GAMMA: return "gamma";
    case SPD_PARAMETER_LSF: return "lsf";
  }
  return "unknown";
}

/* PyTorch has a convolution's (k, in, out) as (out, in, k); everything else has one shape. */
static SEXP shape_of(const struct spd_parameter *p, int pytorch) {
  SEXP shape = Rf_allocVector(REALSXP, (R_xlen_t)p->rank);
  for (size_t i = 0; i < p->rank; i++)
    REAL(shape)[i] = (double)p->shape[pytorch && p->role == SPD_PARAMETER_CONV_WEIGHT ? p->rank - 1 - i : i];
  return shape;
}

SEXP ffi_network_table(SEXP architecture) {
  static const char *const names[] = {"name", "role", "rank", "shape", "pytorch_shape", "offset", "count"};
  struct spd_network network;
  r_network(architecture, &network);
  R_xlen_t n = (R_xlen_t)network.n_parameters;
  SEXP table = PROTECT(r_list_new(7, names));
  SEXP name, role, rank, shape, pytorch_shape, offset, count;
  SET_VECTOR_ELT(table, 0, name = Rf_allocVector(STRSXP, n));
  SET_VECTOR_ELT(table, 1, role = Rf_allocVector(STRSXP, n));
  SET_VECTOR_ELT(table, 2, rank = Rf_allocVector(INTSXP, n));
  SET_VECTOR_ELT(table, 3, shape = Rf_allocVector(VECSXP, n));
  SET_VECTOR_ELT(table, 4, pytorch_shape = Rf_allocVector(VECSXP, n));
  SET_VECTOR_ELT(table, 5, offset = Rf_allocVector(REALSXP, n));
  SET_VECTOR_ELT(table, 6, count = Rf_allocVector(REALSXP, n));
  for (R_xlen_t i = 0; i < n; i++) {
    const struct spd_parameter *p = &network.parameters[i];
    SET_STRING_ELT(name, i, Rf_mkChar(p->name));
    SET_STRING_ELT(role, i, Rf_mkChar(role_name(p->role)));
    INTEGER(rank)[i] = (int)p->rank;
    SET_VECTOR_ELT(shape, i, shape_of(p, 0));
    SET_VECTOR_ELT(pytorch_shape, i, shape_of(p, 1));
    REAL(offset)[i] = (double)p->offset;
    REAL(count)[i] = (double)p->count;
  }
  UNPROTECT(1);
  return table;
}

/* An R array (column-major) of the parameter in its PyTorch shape; a plain vector where it has one dimension. */
static SEXP new_array(const float *ours, const struct spd_parameter *p) {
  SEXP array = PROTECT(Rf_allocVector(REALSXP, (R_xlen_t)p->count));
  const void *top = vmaxget();
  float *values = (float *)R_alloc(p->count, sizeof(float));
  spd_parameter_export(values, ours, p);
  if (p->rank == 1) {
    for (size_t i = 0; i < p->count; i++) REAL(array)[i] = values[i];
  } else {
    SEXP shape = PROTECT(shape_of(p, 1)), dim = PROTECT(Rf_coerceVector(shape, INTSXP));
    size_t a = (size_t)INTEGER(dim)[0], b = (size_t)INTEGER(dim)[1], c = p->rank > 2 ? (size_t)INTEGER(dim)[2] : 1;
    for (size_t i = 0; i < a; i++)
      for (size_t j = 0; j < b; j++)
        for (size_t k = 0; k < c; k++) REAL(array)[i + a * (j + b * k)] = values[(i * b + j) * c + k];
    Rf_setAttrib(array, R_DimSymbol, dim);
    UNPROTECT(2);
  }
  vmaxset(top);
  UNPROTECT(1);
  return array;
}

/* A named list of R arrays with PyTorch's names and shapes. */
SEXP ffi_network_export(SEXP architecture, SEXP weights) {
  struct spd_network network;
  r_network(architecture, &network);
  const float *block = r_weights(weights, &network);
  R_xlen_t n = (R_xlen_t)network.n_parameters;
  SEXP arrays = PROTECT(Rf_allocVector(VECSXP, n)), names = PROTECT(Rf_allocVector(STRSXP, n));
  Rf_setAttrib(arrays, R_NamesSymbol, names);
  for (R_xlen_t i = 0; i < n; i++) {
    const struct spd_parameter *p = &network.parameters[i];
    SET_STRING_ELT(names, i, Rf_mkChar(p->name));
    SET_VECTOR_ELT(arrays, i, new_array(block + p->offset, p));
  }
  UNPROTECT(2);
  return arrays;
}

/* Weights from a named list of doubles in PyTorch's order, row-major, as in a file */
SEXP ffi_network_import(SEXP architecture, SEXP tensors) {
  struct spd_network network;
  r_network(architecture, &network);
  if (TYPEOF(tensors) != VECSXP) FAIL_INVALID("tensors must be a list");
  for (size_t i = 0; i < network.n_parameters; i++) { /* before anything of the network's size is allocated */
    const struct spd_parameter *p = &network.parameters[i];
    SEXP data = r_list_get(tensors, p->name);
    if (TYPEOF(data) != REALSXP || (size_t)Rf_xlength(data) != p->count)
      FAIL_INVALID("tensor '%s' must be a double vector with as many elements as its parameter", p->name);
  }
  SEXP weights = PROTECT(Rf_allocVector(RAWSXP, (R_xlen_t)(network.size * sizeof(float))));
  float *block = (float *)RAW(weights);
  memset(block, 0, network.size * sizeof(float));
  for (size_t i = 0; i < network.n_parameters; i++) {
    const struct spd_parameter *p = &network.parameters[i];
    SEXP data = r_list_get(tensors, p->name);
    const void *top = vmaxget();
    float *values = (float *)R_alloc(p->count, sizeof(float));
    for (size_t j = 0; j < p->count; j++) values[j] = (float)REAL_RO(data)[j];
    spd_parameter_import(block + p->offset, values, p);
    vmaxset(top);
  }
  UNPROTECT(1);
  return weights;
}

/* Initial weights */
SEXP ffi_network_fill(SEXP architecture, SEXP seed) {
  struct spd_network network;
  r_network(architecture, &network);
  const double first = r_whole(seed, "seed", 0, R_MOST_SEED);
  SEXP weights = PROTECT(Rf_allocVector(RAWSXP, (R_xlen_t)(network.size * sizeof(float))));
  spd_network_fill((float *)(void *)RAW(weights), &network, (uint64_t)first);
  UNPROTECT(1);
  return weights;
}

/* Weights for another architecture, with the parameters that both have; the others are 0. */
SEXP ffi_network_carry(SEXP architecture, SEXP weights, SEXP to) {
  struct spd_network from_network, to_network;
  struct spd_error error;
  r_network(architecture, &from_network);
  r_network(to, &to_network);
  const float *from = r_weights(weights, &from_network);
  SEXP out = PROTECT(Rf_allocVector(RAWSXP, (R_xlen_t)(to_network.size * sizeof(float))));
  float *block = (float *)(void *)RAW(out);
  memset(block, 0, to_network.size * sizeof *block);
  const spd_status status = spd_network_copy(block, &to_network, from, &from_network, &error);
  UNPROTECT(1);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return out;
}

/* Weights with another line spread function; kernel: in the order of convolution, which the network stores reversed */
SEXP ffi_network_set_lsf(SEXP architecture, SEXP weights, SEXP kernel) {
  struct spd_network network;
  r_network(architecture, &network);
  const struct spd_parameter *p = spd_network_find(&network, SPD_PART_INSTRUMENT, 0, SPD_PARAMETER_LSF);
  if (!p) FAIL_INVALID("the network has no line spread function");
  r_check_numbers(kernel, "kernel", p->count);
  r_weights(weights, &network);
  SEXP out = PROTECT(Rf_duplicate(weights));
  float *to = (float *)(void *)RAW(out) + p->offset;
  for (size_t i = 0; i < p->count; i++) to[i] = (float)REAL_RO(kernel)[p->count - 1 - i];
  UNPROTECT(1);
  return out;
}
