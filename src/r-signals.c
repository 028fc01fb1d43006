/* For batch programs: turns a scheduler's SIGTERM into an interrupt, after which spender() returns the fit of the epochs done. One is
 * enough: others, which would end the writing of that fit, are ignored. Only main() as a program installs this handler. */
#include <signal.h>
#include <string.h>

#include "r-entries.h"

#ifdef SIGTERM
static volatile sig_atomic_t interrupted;

static void interrupt(int signal) {
  (void)signal;
  if (interrupted) return;
  interrupted = 1;
  raise(SIGINT); /* R's own handler sets a flag that is looked at where it is safe */
}
#endif

SEXP ffi_interrupt_on_sigterm(void) {
#if defined(_WIN32) || !defined(SIGTERM)
  return Rf_ScalarLogical(0);
#else
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = interrupt;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  return Rf_ScalarLogical(sigaction(SIGTERM, &action, NULL) == 0);
#endif
}
