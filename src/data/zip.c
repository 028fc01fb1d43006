#define _POSIX_C_SOURCE 200809L
#define _FILE_OFFSET_BITS 64

#include "data/zip.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/bytes.h"
#include "core/files.h"
#include "core/text.h"

/* Records by their signature and their bytes without names and comments */
enum {
  LOCAL = 0x04034b50,
  LOCAL_BYTES = 30,
  ENTRY = 0x02014b50,
  ENTRY_BYTES = 46,
  END = 0x06054b50,
  END_BYTES = 22,
  LOCATOR = 0x07064b50,
  LOCATOR_BYTES = 20,
  END64 = 0x06064b50,
  END64_BYTES = 56,
  MOST_COMMENT = 65535,
  MOST_DIRECTORY = 1 << 26
};

static spd_status broken(const struct spd_zip *zip, struct spd_error *error, const char *what) {
  return spd_fail(error, SPD_STATUS_FORMAT, "%s: not a whole ZIP archive: %s", spd_text_tail(zip->path), what);
}

static spd_status io_fail(const struct spd_zip *zip, struct spd_error *error, const char *verb) {
  return spd_fail(error, SPD_STATUS_IO, "%s: cannot %s: %s", spd_text_tail(zip->path), verb, strerror(errno));
}

static spd_status read_at(void *to, size_t n, uint64_t offset, const struct spd_zip *zip, struct spd_error *error) {
  if (offset > zip->size || n > zip->size - offset) return broken(zip, error, "it is cut short");
  const int read = spd_file_read(to, n, offset, zip->descriptor);
  if (read == 0) return broken(zip, error, "it is cut short");
  return read < 0 ? io_fail(zip, error, "read") : SPD_STATUS_OK;
}

uint32_t spd_zip_crc(const void *bytes, size_t n) {
  uint32_t table[256], crc = 0xffffffffu;
  for (uint32_t i = 0; i < 256; i++) {
    table[i] = i;
    for (int bit = 0; bit < 8; bit++) table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xedb88320u : 0);
  }
  for (const unsigned char *b = bytes, *end = b + n; b < end; b++) crc = table[(crc ^ *b) & 0xff] ^ crc >> 8;
  return ~crc;
}

/* ---- the directory ---- */

/* What a number of the directory is: itself, or, where all its bits are set, the next of the entry's ZIP64 field. 0 if that lacks it. */
static int wide(uint64_t *value, const unsigned char **field, const unsigned char *end) {
  if (*value != 0xffffffffu) return 1;
  if (end - *field < 8) return 0;
  *value = spd_get_little(*field, 8);
  *field += 8;
  return 1;
}

/* The entry's ZIP64 field within its (n) bytes of extra fields; empty where there is none. */
static const unsigned char *find_zip64(const unsigned char *extra, size_t n, const unsigned char **end) {
  while (n >= 4) {
    const size_t id = spd_get_little(extra, 2), size = spd_get_little(extra + 2, 2);
    if (size > n - 4) break;
    if (id == 1) return *end = extra + 4 + size, extra + 4;
    extra += 4 + size, n -= 4 + size;
  }
  return *end = extra;
}

/* The entry at `at`, in *length bytes of the directory; its name is ended by 0 in place, over the fixed part. */
static spd_status parse_entry(struct spd_zip_entry *e, size_t *length, unsigned char *at, size_t left, const struct spd_zip *zip,
                              struct spd_error *error) {
  if (left < ENTRY_BYTES || spd_get_little(at, 4) != ENTRY) return broken(zip, error, "its directory is damaged");
  const size_t name = spd_get_little(at + 28, 2), extra = spd_get_little(at + 30, 2), comment = spd_get_little(at + 32, 2);
  *length = ENTRY_BYTES + name + extra + comment;
  if (*length > left) return broken(zip, error, "its directory is damaged");
  uint64_t packed = spd_get_little(at + 20, 4);
  const unsigned char *end, *field = find_zip64(at + ENTRY_BYTES + name, extra, &end);
  e->crc = (uint32_t)spd_get_little(at + 16, 4);
  e->bytes = spd_get_little(at + 24, 4);
  e->header = spd_get_little(at + 42, 4);
  if (!wide(&e->bytes, &field, end) || !wide(&packed, &field, end) || !wide(&e->header, &field, end))
    return broken(zip, error, "its directory is damaged");
  e->is_stored = spd_get_little(at + 10, 2) == 0 && (spd_get_little(at + 8, 2) & 1) == 0 && packed == e->bytes;
  if (!spd_text_is_utf8((char *)at + ENTRY_BYTES, name) || memchr(at + ENTRY_BYTES, 0, name))
    return broken(zip, error, "a name in its directory is not UTF-8");
  memmove(at, at + ENTRY_BYTES, name);
  at[name] = 0;
  e->name = (char *)at;
  if (e->is_stored && (e->header > zip->size || e->bytes > zip->size - e->header)) return broken(zip, error, "it is cut short");
  return SPD_STATUS_OK;
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const struct spd_zip_entry *)a)->name, ((const struct spd_zip_entry *)b)->name);
}

/* Number of entries, and the directory's place */
static spd_status find_directory(uint64_t *n, uint64_t *bytes, uint64_t *offset, const struct spd_zip *zip, struct spd_error *error) {
  unsigned char tail[END_BYTES + MOST_COMMENT], end64[END64_BYTES], locator[LOCATOR_BYTES];
  const size_t length = zip->size < sizeof tail ? (size_t)zip->size : sizeof tail;
  if (length < END_BYTES) return broken(zip, error, "it is too short");
  SPD_TRY(read_at(tail, length, zip->size - length, zip, error));
  size_t at = length - END_BYTES + 1;
  while (at-- > 0)
    if (spd_get_little(tail + at, 4) == END && spd_get_little(tail + at + 20, 2) == length - at - END_BYTES) break;
  if (at == (size_t)-1) return broken(zip, error, "its directory is missing (an interrupted download?)");
  *n = spd_get_little(tail + at + 10, 2);
  *bytes = spd_get_little(tail + at + 12, 4);
  *offset = spd_get_little(tail + at + 16, 4);
  if (*n != 0xffff && *bytes != 0xffffffffu && *offset != 0xffffffffu) return SPD_STATUS_OK;

  const uint64_t end = zip->size - length + at;
  if (end < LOCATOR_BYTES) return broken(zip, error, "its directory is missing");
  SPD_TRY(read_at(locator, LOCATOR_BYTES, end - LOCATOR_BYTES, zip, error));
  if (spd_get_little(locator, 4) != LOCATOR) return *n == 0xffff ? SPD_STATUS_OK : broken(zip, error, "its directory is missing");
  SPD_TRY(read_at(end64, END64_BYTES, spd_get_little(locator + 8, 8), zip, error));
  if (spd_get_little(end64, 4) != END64) return broken(zip, error, "its directory is missing");
  *n = spd_get_little(end64 + 32, 8);
  *bytes = spd_get_little(end64 + 40, 8);
  *offset = spd_get_little(end64 + 48, 8);
  return SPD_STATUS_OK;
}

static spd_status read_directory(struct spd_zip *zip, struct spd_error *error) {
  uint64_t n = 0, bytes = 0, offset = 0;
  SPD_TRY(find_directory(&n, &bytes, &offset, zip, error));
  if (offset > zip->size || bytes > zip->size - offset || n > bytes / ENTRY_BYTES) return broken(zip, error, "its directory is damaged");
  if (bytes > MOST_DIRECTORY) return broken(zip, error, "its directory is longer than 64 MB");
  zip->directory = malloc((size_t)bytes + 1);
  zip->entries = malloc(((size_t)n + 1) * sizeof *zip->entries);
  if (!zip->directory || !zip->entries)
    return spd_fail(error, SPD_STATUS_NO_MEMORY, "%s: no memory for its directory", spd_text_tail(zip->path));
  SPD_TRY(read_at(zip->directory, (size_t)bytes, offset, zip, error));
  for (size_t at = 0, length = 0; zip->n_entries < n; zip->n_entries++, at += length)
    SPD_TRY(parse_entry(&zip->entries[zip->n_entries], &length, (unsigned char *)zip->directory + at, (size_t)bytes - at, zip, error));
  if (n > 1) qsort(zip->entries, (size_t)n, sizeof *zip->entries, by_name);
  for (size_t i = 1; i < n; i++)
    if (by_name(&zip->entries[i - 1], &zip->entries[i]) == 0)
      return spd_fail(error, SPD_STATUS_FORMAT, "%s: holds '%s' twice", spd_text_tail(zip->path),
                      spd_text_shown(zip->entries[i].name).text);
  return SPD_STATUS_OK;
}

static spd_status open_file(struct spd_zip *zip, struct spd_error *error) {
  struct stat info;
  /* without O_NONBLOCK a named pipe would wait for its writer */
  zip->descriptor = open(zip->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (zip->descriptor < 0) return io_fail(zip, error, "open");
  if (fstat(zip->descriptor, &info) != 0) return io_fail(zip, error, "read");
  if (!S_ISREG(info.st_mode)) return spd_fail(error, SPD_STATUS_IO, "%s: cannot read: not a regular file", spd_text_tail(zip->path));
  zip->size = (uint64_t)info.st_size;
  return read_directory(zip, error);
}

spd_status spd_zip_open(struct spd_zip *zip, const char *path, struct spd_error *error) {
  *zip = (struct spd_zip){.descriptor = -1, .path = malloc(strlen(path) + 1)};
  if (!zip->path) return spd_fail(error, SPD_STATUS_NO_MEMORY, "%s: no memory to open it", spd_text_tail(path));
  strcpy(zip->path, path);
  const spd_status status = open_file(zip, error);
  if (status != SPD_STATUS_OK) spd_zip_close(zip);
  return status;
}

void spd_zip_close(struct spd_zip *zip) {
  if (zip->descriptor >= 0) close(zip->descriptor);
  free(zip->entries);
  free(zip->directory);
  free(zip->path);
  *zip = (struct spd_zip){.descriptor = -1};
}

/* ---- entries ---- */

const struct spd_zip_entry *spd_zip_find(const struct spd_zip *zip, const char *name) {
  const struct spd_zip_entry key = {.name = name};
  return zip->n_entries ? bsearch(&key, zip->entries, zip->n_entries, sizeof key, by_name) : NULL;
}

spd_status spd_zip_read(void *to, const struct spd_zip *zip, const struct spd_zip_entry *entry, struct spd_error *error) {
  unsigned char local[LOCAL_BYTES];
  if (!entry->is_stored)
    return spd_fail(error, SPD_STATUS_FORMAT, "%s: '%s' is compressed, which torch.save() does not do", spd_text_tail(zip->path),
                    spd_text_shown(entry->name).text);
  SPD_TRY(read_at(local, LOCAL_BYTES, entry->header, zip, error));
  if (spd_get_little(local, 4) != LOCAL) return broken(zip, error, "an entry is not where its directory says");
  const uint64_t start = entry->header + LOCAL_BYTES + spd_get_little(local + 26, 2) + spd_get_little(local + 28, 2);
  SPD_TRY(read_at(to, (size_t)entry->bytes, start, zip, error));
  if (spd_zip_crc(to, (size_t)entry->bytes) != entry->crc)
    return spd_fail(error, SPD_STATUS_FORMAT, "%s: is damaged: the checksum of '%s' does not fit", spd_text_tail(zip->path),
                    spd_text_shown(entry->name).text);
  return SPD_STATUS_OK;
}
