/* ZIP archives whose entries are stored without compression, as torch.save() writes them; ZIP64 included.
 * Format: PKWARE APPNOTE 6.3.
 *
 * The reader trusts nothing in a file: any deviation is SPD_STATUS_FORMAT with a sentence that names the file. It allocates no more than a
 * small multiple of the size of the archive's directory. */
#ifndef SPD_DATA_ZIP_H
#define SPD_DATA_ZIP_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

struct spd_zip_entry {
  const char *name; /* UTF-8 */
  uint64_t bytes;
  uint64_t header; /* offset of its local header */
  uint32_t crc;
  int is_stored; /* neither compressed nor encrypted */
};

/* An open archive. Read-only for callers. */
struct spd_zip {
  size_t n_entries;
  struct spd_zip_entry *entries; /* sorted by name, each name once */
  char *path, *directory;
  uint64_t size; /* of the file */
  int descriptor;
};

/* On failure the archive is closed. */
spd_status spd_zip_open(struct spd_zip *zip, const char *path, struct spd_error *error);
void spd_zip_close(struct spd_zip *zip);

/* NULL when there is none. */
const struct spd_zip_entry *spd_zip_find(const struct spd_zip *zip, const char *name);
/* The entry's bytes, whose checksum is verified. */
spd_status spd_zip_read(void *to, const struct spd_zip *zip, const struct spd_zip_entry *entry, struct spd_error *error);

/* CRC-32 of ISO 3309, as in ZIP and gzip. */
uint32_t spd_zip_crc(const void *bytes, size_t n);

#endif
