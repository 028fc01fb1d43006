/* How functions of the core report failure: a status, and one sentence in the caller's spd_error. */
#ifndef SPD_CORE_STATUS_H
#define SPD_CORE_STATUS_H

#include <stddef.h>

typedef enum {
  SPD_STATUS_OK = 0,
  SPD_STATUS_INVALID,     /* an argument is out of range or two do not fit together */
  SPD_STATUS_NO_MEMORY,   /* host or device memory */
  SPD_STATUS_IO,          /* the operating system refused to open, read or write */
  SPD_STATUS_FORMAT,      /* a file's content is not what its format promises */
  SPD_STATUS_UNSUPPORTED, /* this build or this machine cannot do it */
  SPD_STATUS_DEVICE,      /* an accelerator or its library failed */
  SPD_STATUS_INTERRUPTED  /* the caller asked for it */
} spd_status;

struct spd_error {
  char message[512];
};

/* Writes the sentence (error may be NULL) and returns the status, so that it ends a function. */
spd_status spd_fail(struct spd_error *error, spd_status status, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 3, 4)))
#endif
    ;

/* "invalid", "no_memory", "io", ...: the tail of the R condition class. */
const char *spd_status_name(spd_status status);

#define SPD_TRY(expr)                                           \
  do {                                                          \
    spd_status spd_try_status = (expr);                         \
    if (spd_try_status != SPD_STATUS_OK) return spd_try_status; \
  } while (0)

#endif
