/* Flows, for R: log densities, samples, and fits that are advanced a fraction of a second at a time. */
#include <string.h>

#include "density/flow.h"
#include "r-entries.h"
#include "r-numbers.h"

enum { ROWS_AT_ONCE = 1 << 16 }; /* between two checks for user interrupts */

/* ---- arguments ---- */

static void r_check_flow(const struct spd_flow *flow) {
  struct spd_error error;
  const spd_status status = spd_flow_check(flow, &error);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
}

/* list(type, features, conditions, layers, hidden, depth, bins, bound, centre, scale, tail): without parameters and order */
static struct spd_flow flow_shape(SEXP list) {
  struct spd_flow flow = {.features = (size_t)r_list_whole(list, "features", 1, SPD_FLOW_MOST_FEATURES),
                          .conditions = (size_t)r_list_whole(list, "conditions", 0, SPD_FLOW_MOST_FEATURES),
                          .layers = (size_t)r_list_whole(list, "layers", 1, SPD_FLOW_MOST_LAYERS),
                          .hidden = (size_t)r_list_whole(list, "hidden", 1, SPD_FLOW_MOST_HIDDEN),
                          .depth = (size_t)r_list_whole(list, "depth", 1, SPD_FLOW_MOST_DEPTH),
                          .bins = (size_t)r_list_whole(list, "bins", 0, SPD_FLOW_MOST_BINS),
                          .bound = (float)r_list_real(list, "bound")};
  const char *type = r_text(r_list_get(list, "type"), "type");
  if (strcmp(type, "spline") != 0 && strcmp(type, "maf") != 0) Rf_error("internal: unknown type '%s'", type);
  flow.type = strcmp(type, "maf") == 0 ? SPD_FLOW_MAF : SPD_FLOW_SPLINE;
  const size_t columns = flow.conditions + flow.features;
  flow.centre = r_list_numbers(list, "centre", columns);
  flow.scale = r_list_numbers(list, "scale", columns);
  flow.tail = r_list_numbers(list, "tail", columns);
  return flow;
}

/* The same with `weights` (raw, floats) and `order` (S, L), from 1 */
static struct spd_flow whole_flow(SEXP list) {
  struct spd_flow flow = flow_shape(list);
  const SEXP weights = r_list_get(list, "weights"), order = r_list_get(list, "order");
  r_check_matrix(order, "order", flow.features, flow.layers);
  const size_t n = flow.features * flow.layers;
  uint32_t *from_0 = (uint32_t *)R_alloc(n, sizeof *from_0);
  for (size_t i = 0; i < n; i++) {
    const double value = REAL_RO(order)[i];
    from_0[i] = value >= 1 && value <= (double)flow.features ? (uint32_t)value - 1 : UINT32_MAX;
  }
  flow.order = from_0;
  r_check_flow(&flow);
  const size_t bytes = spd_flow_size(&flow) * sizeof(float);
  if (TYPEOF(weights) != RAWSXP || (size_t)Rf_xlength(weights) != bytes) Rf_error("internal: 'weights' must be %zu raw bytes", bytes);
  flow.parameters = (const float *)(const void *)RAW_RO(weights);
  return flow;
}

/* Rows of conditions; NULL where the flow has none */
static const double *conditions_of(SEXP conditions, const struct spd_flow *flow, size_t n) {
  if (flow->conditions == 0) return NULL;
  r_check_matrix(conditions, "conditions", n, flow->conditions);
  return REAL_RO(conditions);
}

static size_t rows_of(SEXP x) {
  if (TYPEOF(x) != REALSXP || !Rf_isMatrix(x)) Rf_error("internal: 'x' must be a matrix of doubles");
  return (size_t)Rf_nrows(x);
}

static SEXP raw_floats(const float *values, size_t n) {
  SEXP bytes = Rf_allocVector(RAWSXP, (R_xlen_t)(n * sizeof *values));
  memcpy(RAW(bytes), values, n * sizeof *values);
  return bytes;
}

/* ---- densities and samples ---- */

/* list(weights, order) to begin a fit with */
SEXP ffi_flow_start(SEXP shape, SEXP seed) {
  static const char *const names[] = {"weights", "order"};
  struct spd_flow flow = flow_shape(shape);
  const uint64_t from = (uint64_t)r_whole(seed, "seed", 0, R_MOST_SEED);
  const size_t n = flow.features * flow.layers;
  uint32_t *order = (uint32_t *)R_alloc(n, sizeof *order);
  for (size_t i = 0; i < n; i++) order[i] = (uint32_t)(i % flow.features); /* any that passes the check */
  flow.order = order;
  r_check_flow(&flow);
  SEXP result = PROTECT(r_list_new(2, names)), weights, orders;
  SET_VECTOR_ELT(result, 0, weights = Rf_allocVector(RAWSXP, (R_xlen_t)(spd_flow_size(&flow) * sizeof(float))));
  SET_VECTOR_ELT(result, 1, orders = Rf_allocMatrix(REALSXP, (int)flow.features, (int)flow.layers));
  struct spd_error error;
  const spd_status status = spd_flow_start((float *)(void *)RAW(weights), order, &flow, from, &error);
  for (size_t i = 0; i < n; i++) REAL(orders)[i] = (double)order[i] + 1;
  UNPROTECT(1);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return result;
}

/* log p of the rows of x (n, S) with conditions (n, C): (n), or with terms (n, L + 3), log p the first column */
SEXP ffi_flow_density(SEXP list, SEXP x, SEXP conditions, SEXP terms, SEXP threads) {
  const struct spd_flow flow = whole_flow(list);
  const size_t n = rows_of(x);
  r_check_matrix(x, "x", n, flow.features);
  const double *given = conditions_of(conditions, &flow, n);
  const int with_terms = r_whole(terms, "terms", 0, 1) != 0, team = (int)r_whole(threads, "threads", 1, 4096);
  SEXP out = PROTECT(Rf_allocMatrix(REALSXP, (int)n, with_terms ? (int)flow.layers + 3 : 1));
  double *log_p = REAL(out);
  struct spd_error error;
  spd_status status = SPD_STATUS_OK;
  for (size_t from = 0; status == SPD_STATUS_OK && from < n; from += ROWS_AT_ONCE) {
    R_CheckUserInterrupt();
    status = spd_flow_density(log_p, with_terms ? log_p + n : NULL, &flow, REAL_RO(x), given, n, from,
                              n - from < ROWS_AT_ONCE ? n - from : ROWS_AT_ONCE, team, &error);
  }
  UNPROTECT(1);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return out;
}

/* A sample (n, S) */
SEXP ffi_flow_sample(SEXP list, SEXP conditions, SEXP n_rows, SEXP seed, SEXP threads) {
  const struct spd_flow flow = whole_flow(list);
  const size_t n = (size_t)r_whole(n_rows, "n", 0, 2147483647);
  const double *given = conditions_of(conditions, &flow, n);
  const uint64_t from_seed = (uint64_t)r_whole(seed, "seed", 0, R_MOST_SEED);
  const int team = (int)r_whole(threads, "threads", 1, 4096);
  SEXP out = PROTECT(Rf_allocMatrix(REALSXP, (int)n, (int)flow.features));
  struct spd_error error;
  spd_status status = SPD_STATUS_OK;
  for (size_t from = 0; status == SPD_STATUS_OK && from < n; from += ROWS_AT_ONCE) {
    R_CheckUserInterrupt();
    status = spd_flow_sample(REAL(out), &flow, given, n, from, n - from < ROWS_AT_ONCE ? n - from : ROWS_AT_ONCE, from_seed, team, &error);
  }
  UNPROTECT(1);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return out;
}

/* ---- fits ---- */

static SEXP fit_tag(void) { return Rf_install("spender_flow_fit"); }

static void finalize(SEXP pointer) {
  spd_flow_fit_destroy(R_ExternalPtrAddr(pointer));
  R_ClearExternalPtr(pointer);
}

static struct spd_flow_fit *fit_of(SEXP pointer) {
  struct spd_flow_fit *fit = TYPEOF(pointer) == EXTPTRSXP && R_ExternalPtrTag(pointer) == fit_tag() ? R_ExternalPtrAddr(pointer) : NULL;
  if (!fit) Rf_error("internal: not a running fit of a flow");
  return fit;
}

/* rows (from 1) of x and conditions; options: list(batch_size, rate, total_steps, seed, threads) */
SEXP ffi_flow_open(SEXP list, SEXP x, SEXP conditions, SEXP rows, SEXP options) {
  const struct spd_flow flow = whole_flow(list);
  const size_t n = rows_of(x), n_rows = (size_t)Rf_xlength(rows);
  r_check_matrix(x, "x", n, flow.features);
  const double *given = conditions_of(conditions, &flow, n);
  r_check_rows(rows, R_ANY, (double)n);
  const struct spd_flow_options o = {.batch_size = (size_t)r_list_whole(options, "batch_size", 1, 1e6),
                                     .rate = r_list_real(options, "rate"),
                                     .total_steps = (uint64_t)r_list_whole(options, "total_steps", 1, 1e15),
                                     .seed = (uint64_t)r_list_whole(options, "seed", 0, R_MOST_SEED),
                                     .threads = (int)r_list_whole(options, "threads", 1, 4096)};
  uint64_t *from_0 = (uint64_t *)R_alloc(n_rows, sizeof *from_0);
  for (size_t i = 0; i < n_rows; i++) from_0[i] = (uint64_t)REAL_RO(rows)[i] - 1;
  SEXP pointer = PROTECT(R_MakeExternalPtr(NULL, fit_tag(), R_NilValue));
  R_RegisterCFinalizerEx(pointer, finalize, TRUE);
  struct spd_flow_fit *fit;
  struct spd_error error;
  const spd_status status = spd_flow_fit_create(&fit, &flow, REAL_RO(x), given, n, from_0, n_rows, &o, &error);
  R_SetExternalPtrAddr(pointer, fit);
  UNPROTECT(1);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return pointer;
}

SEXP ffi_flow_advance(SEXP pointer, SEXP seconds) {
  static const char *const names[] = {"loss", "rate", "step", "epoch_finished"};
  struct spd_flow_fit *fit = fit_of(pointer);
  struct spd_flow_progress progress;
  const double limit = r_number(seconds, "seconds");
  SEXP result = PROTECT(r_list_new(4, names));
  spd_flow_fit_advance(fit, limit < 60 ? limit : 60, &progress);
  SET_VECTOR_ELT(result, 0, Rf_ScalarReal(progress.loss));
  SET_VECTOR_ELT(result, 1, Rf_ScalarReal(progress.rate));
  SET_VECTOR_ELT(result, 2, Rf_ScalarReal((double)progress.step));
  SET_VECTOR_ELT(result, 3, Rf_ScalarLogical(progress.epoch_finished));
  UNPROTECT(1);
  return result;
}

SEXP ffi_flow_weights(SEXP pointer) {
  const struct spd_flow_fit *fit = fit_of(pointer);
  return raw_floats(spd_flow_fit_parameters(fit), spd_flow_fit_size(fit));
}

SEXP ffi_flow_close(SEXP pointer) {
  fit_of(pointer);
  finalize(pointer);
  return R_NilValue;
}
