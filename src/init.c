/* Registration of the .Call entries; nothing else. */
#include "r-util.h"

#include <R_ext/Rdynload.h>

static const R_CallMethodDef entries[] = {
    {NULL, NULL, 0},
};

void R_init_spender(DllInfo *dll) {
  R_registerRoutines(dll, NULL, entries, NULL, NULL);
  R_useDynamicSymbols(dll, FALSE);
  R_forceSymbols(dll, TRUE);
}
