/* .Call entries about the build and the devices. */
#include <stdio.h>

#include "core/threads.h"
#include "cpu/create.h"
#include "cuda/create.h"
#include "mpi/create.h"
#include "nccl/create.h"
#include "network/backend.h"
#include "r-entries.h"

SEXP ffi_build_info(void) {
  static const char *const names[] = {"cblas", "cfitsio", "cuda", "cores", "instructions", "mpi", "nccl", "launched"};
  SEXP list = PROTECT(r_list_new(8, names));
  int cblas = FALSE, cfitsio = FALSE;
#ifdef SPD_HAVE_CBLAS
  cblas = TRUE;
#endif
#ifdef SPD_HAVE_CFITSIO
  cfitsio = TRUE;
#endif
  SET_VECTOR_ELT(list, 0, Rf_ScalarLogical(cblas));
  SET_VECTOR_ELT(list, 1, Rf_ScalarLogical(cfitsio));
  SET_VECTOR_ELT(list, 2, Rf_ScalarLogical(spd_cuda_built()));
  SET_VECTOR_ELT(list, 3, Rf_ScalarInteger(spd_cores()));
  SET_VECTOR_ELT(list, 4, Rf_mkString(spd_cpu_instructions()));
  SET_VECTOR_ELT(list, 5, Rf_ScalarLogical(spd_mpi_built()));
  SET_VECTOR_ELT(list, 6, Rf_ScalarLogical(spd_nccl_built()));
  SET_VECTOR_ELT(list, 7, Rf_ScalarLogical(spd_mpi_launched()));
  UNPROTECT(1);
  return list;
}

/* name, memory (bytes) and compute capability of each GPU that can be used now; forked: none can, as a parent process has used CUDA */
SEXP ffi_cuda_devices(void) {
  static const char *const names[] = {"name", "memory", "capability", "forked"};
  const int count = spd_cuda_count();
  SEXP list = PROTECT(r_list_new(4, names));
  SET_VECTOR_ELT(list, 0, Rf_allocVector(STRSXP, count));
  SET_VECTOR_ELT(list, 1, Rf_allocVector(REALSXP, count));
  SET_VECTOR_ELT(list, 2, Rf_allocVector(STRSXP, count));
  SET_VECTOR_ELT(list, 3, Rf_ScalarLogical(spd_cuda_forked()));
  for (int i = 0; i < count; i++) {
    struct spd_cuda_device device;
    struct spd_error error;
    char capability[32];
    const spd_status status = spd_cuda_describe(&device, i, &error);
    if (status != SPD_STATUS_OK) r_raise(status, &error);
    snprintf(capability, sizeof capability, "%d.%d", device.major, device.minor);
    SET_STRING_ELT(VECTOR_ELT(list, 0), i, Rf_mkChar(device.name));
    REAL(VECTOR_ELT(list, 1))[i] = (double)device.memory;
    SET_STRING_ELT(VECTOR_ELT(list, 2), i, Rf_mkChar(capability));
  }
  UNPROTECT(1);
  return list;
}

/* Gives back what destroyed backends have left on the GPU. */
SEXP ffi_cuda_release(void) {
  spd_cuda_release();
  return R_NilValue;
}
