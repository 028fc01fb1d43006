/* The processes of MPI, for R: joining them, and small messages between them. */
#include <stdint.h>
#include <string.h>

#include "cuda/create.h"
#include "mpi/create.h"
#include "r-entries.h"
#include "r-group.h"

static struct spd_group *joined;

/* MPI is ended where R ends, or the package is unloaded */
static void leave(SEXP pointer) {
  (void)pointer;
  spd_mpi_leave();
}

static struct spd_group *group_of_all(void) {
  if (!joined) Rf_error("internal: the processes have not been joined");
  return joined;
}

/* timeout: seconds. Outside MPI this process is the only one. rank and size, the rank's number among those of its host, and the names of
 * all hosts */
SEXP ffi_group_join(SEXP timeout) {
  static const char *const names[] = {"rank", "size", "local_rank", "hosts"};
  static int registered;
  const double patience = r_number(timeout, "timeout");
  struct spd_error error;
  if (!(patience > 0 && patience <= 1e9)) Rf_error("internal: 'timeout' must be positive");
  if (!registered && spd_mpi_built() && spd_mpi_launched()) {
    SEXP end = PROTECT(R_MakeExternalPtr(&registered, R_NilValue, R_NilValue));
    R_RegisterCFinalizerEx(end, leave, TRUE);
    R_PreserveObject(end);
    registered = 1;
    UNPROTECT(1);
  }
  if (spd_mpi_launched()) {
    const spd_status status = spd_mpi_join(&joined, patience, &error);
    if (status != SPD_STATUS_OK) r_raise(status, &error);
  } else {
    joined = spd_group_alone();
  }
  if (joined->size > 1) {
    const spd_status status = spd_cuda_choose(joined->local_rank, &error);
    if (status != SPD_STATUS_OK) r_raise(status, &error);
  }
  SEXP list = PROTECT(r_list_new(4, names));
  SET_VECTOR_ELT(list, 0, Rf_ScalarReal(joined->rank));
  SET_VECTOR_ELT(list, 1, Rf_ScalarReal(joined->size));
  SET_VECTOR_ELT(list, 2, Rf_ScalarReal(joined->local_rank));
  SET_VECTOR_ELT(list, 3, Rf_allocVector(STRSXP, joined->size));
  for (int rank = 0; rank < joined->size; rank++) SET_STRING_ELT(VECTOR_ELT(list, 3), rank, Rf_mkChar(joined->hosts[rank]));
  UNPROTECT(1);
  return list;
}

struct spd_group *r_group(void) {
  return joined;
}

/* The raw vectors of all ranks, in a list. timeout: seconds that this one waits for the others */
SEXP ffi_group_gather(SEXP bytes, SEXP timeout) {
  const double patience = r_number(timeout, "timeout");
  if (TYPEOF(bytes) != RAWSXP) Rf_error("internal: 'bytes' must be raw");
  if (!(patience > 0 && patience <= 1e9)) Rf_error("internal: 'timeout' must be positive");
  struct spd_group *group = group_of_all();
  const size_t n = (size_t)group->size;
  const double before = group->patience;
  struct spd_error error;
  size_t *bounds = (size_t *)(void *)R_alloc(n + 1, sizeof *bounds);
  uint64_t *lengths = (uint64_t *)(void *)R_alloc(n, sizeof *lengths);
  for (size_t r = 0; r <= n; r++) bounds[r] = r * sizeof *lengths;
  lengths[group->rank] = (uint64_t)Rf_xlength(bytes);
  group->patience = patience;
  spd_status status = spd_group_gather(group, lengths, bounds, &error);
  if (status != SPD_STATUS_OK) {
    group->patience = before;
    r_raise(status, &error);
  }
  for (size_t r = 0; r < n; r++) bounds[r + 1] = bounds[r] + (size_t)lengths[r];
  group->patience = before; /* an allocation may fail */
  SEXP all = PROTECT(Rf_allocVector(RAWSXP, (R_xlen_t)bounds[n])), list = PROTECT(Rf_allocVector(VECSXP, (R_xlen_t)n));
  for (size_t r = 0; r < n; r++) SET_VECTOR_ELT(list, (R_xlen_t)r, Rf_allocVector(RAWSXP, (R_xlen_t)lengths[r]));
  memcpy(RAW(all) + bounds[group->rank], RAW_RO(bytes), (size_t)Rf_xlength(bytes));
  status = spd_group_gather(group, RAW(all), bounds, &error);
  for (size_t r = 0; r < n; r++) memcpy(RAW(VECTOR_ELT(list, (R_xlen_t)r)), RAW(all) + bounds[r], (size_t)lengths[r]);
  UNPROTECT(2);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return list;
}

/* Tells all other ranks that this one cannot go on. */
SEXP ffi_group_tell(SEXP message) {
  const char *text = r_text(message, "message");
  struct spd_group *group = group_of_all();
  group->ops->tell(group, text);
  return R_NilValue;
}
