#include "core/status.h"

#include <stdarg.h>
#include <stdio.h>

spd_status spd_fail(struct spd_error *error, spd_status status, const char *format, ...) {
  if (error) {
    va_list args;
    va_start(args, format);
    vsnprintf(error->message, sizeof error->message, format, args);
    va_end(args);
  }
  return status;
}

const char *spd_status_name(spd_status status) {
  switch (status) {
    case SPD_STATUS_OK: return "ok";
    case SPD_STATUS_INVALID: return "invalid";
    case SPD_STATUS_NO_MEMORY: return "no_memory";
    case SPD_STATUS_IO: return "io";
    case SPD_STATUS_FORMAT: return "format";
    case SPD_STATUS_UNSUPPORTED: return "unsupported";
    case SPD_STATUS_DEVICE: return "device";
    case SPD_STATUS_INTERRUPTED: return "interrupted";
  }
  return "unknown";
}
