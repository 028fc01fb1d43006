/* SHA-256 (FIPS 180-4), by which publishers name their files. */
#ifndef SPD_CORE_SHA256_H
#define SPD_CORE_SHA256_H

#include "core/status.h"

/* Of a file, as 64 hexadecimal digits */
spd_status spd_sha256_file(char digits[65], const char *path, struct spd_error *error);

#endif
