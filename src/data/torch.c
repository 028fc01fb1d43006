#define _POSIX_C_SOURCE 200809L
#define _FILE_OFFSET_BITS 64

#include "data/torch.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/bytes.h"
#include "core/files.h"
#include "core/text.h"
#include "data/pickle.h"

/* MOST_VISITS: values that are looked at for tensors; a value that is in many places counts for each */
enum { MOST_PICKLE = 1 << 26, MOST_DEPTH = 8, MOST_NAME = 512, MOST_NAMES = 1 << 24, MOST_VISITS = 1 << 22 };

static const unsigned char zip_start[4] = {'P', 'K', 3, 4};
static const unsigned char old_start[4] = {0x80, 2, 0x8a, 10}; /* a pickle of torch's magic number, 10 bytes long */

static int starts_with(const char *path, const unsigned char start[4]) {
  unsigned char bytes[4];
  struct stat info;
  const int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return 0;
  const int same =
      fstat(descriptor, &info) == 0 && S_ISREG(info.st_mode) && spd_file_read(bytes, 4, 0, descriptor) == 1 && memcmp(bytes, start, 4) == 0;
  close(descriptor);
  return same;
}

int spd_torch_is(const char *path) { return starts_with(path, zip_start) || starts_with(path, old_start); }

/* ---- from the pickle to tensors with names ---- */

struct walk {
  struct spd_torch *file;
  const struct spd_pickle *pickle;
  const char *folder; /* of the archive, with its slash */
  char name[MOST_NAME + 1];
  size_t visits, name_bytes;
  struct spd_error *error;
};

#define WALK_FAIL(what) walk_fail(w, what)
static spd_status walk_fail(const struct walk *w, const char *what) {
  return spd_fail(w->error, SPD_STATUS_FORMAT, "%s: tensor '%s' %s", spd_text_tail(w->file->zip.path), spd_text_shown(w->name).text, what);
}

/* The archive's entry that holds a storage */
static spd_status find_storage(const struct spd_zip_entry **entry, const struct spd_pickle_storage *storage, const struct walk *w) {
  char name[2 * MOST_NAME];
  const int folder = (int)strlen(w->folder), key = (int)storage->key_bytes;
  if (storage->key_bytes > 32 || memchr(storage->key, 0, storage->key_bytes)) return WALK_FAIL("has a storage without a name");
  if (folder + key + 6 > (int)sizeof name) return WALK_FAIL("has a storage with too long a name");
  snprintf(name, sizeof name, "%sdata/%.*s", w->folder, key, storage->key);
  *entry = spd_zip_find(&w->file->zip, name);
  if (!*entry) return WALK_FAIL("has no numbers in the file");
  if (storage->count > SIZE_MAX / 8 || (*entry)->bytes != storage->count * spd_dtype_size(storage->dtype))
    return WALK_FAIL("has another number of bytes in the file than its pickle says");
  return SPD_STATUS_OK;
}

static spd_status add_tensor(struct walk *w, const struct spd_pickle_tensor *from) {
  const struct spd_pickle_storage *storage = &w->pickle->storages[from->storage];
  struct spd_torch *f = w->file;
  struct spd_torch_tensor t = {.dtype = storage->dtype, .rank = from->rank, .count = 1};
  SPD_TRY(find_storage(&t.storage, storage, w));
  uint64_t last = from->offset; /* the highest number of an element */
  int is_empty = 0;
  for (size_t i = 0; i < t.rank; i++) is_empty |= from->shape[i] == 0;
  if (!is_empty && from->offset >= storage->count) return WALK_FAIL("is larger than its storage");
  for (size_t i = 0; i < t.rank; i++) {
    if (from->shape[i] > SIZE_MAX / 8 || from->stride[i] > SIZE_MAX / 8) return WALK_FAIL("has a shape that overflows");
    t.shape[i] = (size_t)from->shape[i];
    t.stride[i] = (size_t)from->stride[i];
    if (is_empty || t.shape[i] == 1) continue;
    if (t.stride[i] > storage->count / (t.shape[i] - 1) || t.count > SIZE_MAX / 8 / t.shape[i])
      return WALK_FAIL("is larger than its storage");
    t.count *= t.shape[i];
    last += (uint64_t)t.stride[i] * (t.shape[i] - 1);
  }
  if (is_empty) t.count = 0;
  /* an expanded tensor repeats its elements: it could be of any size */
  if (!is_empty && (last >= storage->count || t.count > storage->count)) return WALK_FAIL("is larger than its storage");
  t.offset = is_empty ? 0 : (size_t)from->offset;

  const size_t n = strlen(w->name), count = f->n_tensors;
  w->name_bytes += n;
  if (w->name_bytes > MOST_NAMES) return WALK_FAIL("is one of too many");
  if ((count & (count - 1)) == 0) {
    void *larger = realloc(f->tensors, (count ? 2 * count : 1) * sizeof t);
    if (!larger) return spd_fail(w->error, SPD_STATUS_NO_MEMORY, "%s: no memory for its tensors", spd_text_tail(f->zip.path));
    f->tensors = larger;
  }
  char *name = malloc(n + 1);
  if (!name) return spd_fail(w->error, SPD_STATUS_NO_MEMORY, "%s: no memory for its tensors", spd_text_tail(f->zip.path));
  memcpy(name, w->name, n + 1);
  t.name = name;
  f->tensors[f->n_tensors++] = t;
  return SPD_STATUS_OK;
}

static spd_status visit(struct walk *w, uint32_t value, int depth);

/* Visits an item under its container's name, of n bytes, and its own. */
static spd_status visit_under(struct walk *w, size_t n, const char *own, size_t own_bytes, uint32_t value, int depth) {
  const size_t dot = n > 0;
  if (own_bytes > MOST_NAME || n + dot + own_bytes > MOST_NAME || memchr(own, 0, own_bytes))
    return WALK_FAIL("holds something with too long a name");
  if (dot) w->name[n] = '.';
  memcpy(w->name + n + dot, own, own_bytes);
  w->name[n + dot + own_bytes] = 0;
  SPD_TRY(visit(w, value, depth));
  w->name[n] = 0;
  return SPD_STATUS_OK;
}

static int is_container(const struct spd_pickle_value *v) {
  return v->kind == SPD_PICKLE_DICT || v->kind == SPD_PICKLE_LIST || v->kind == SPD_PICKLE_TUPLE;
}

static spd_status visit(struct walk *w, uint32_t number, int depth) {
  const struct spd_pickle *p = w->pickle;
  const struct spd_pickle_value *value = &p->values[number];
  if (value->kind == SPD_PICKLE_TENSOR) return add_tensor(w, &p->tensors[value->as.tensor]);
  if (!is_container(value)) return SPD_STATUS_OK;
  if (depth == MOST_DEPTH) return WALK_FAIL("lies too deep");
  const size_t n = strlen(w->name), step = value->kind == SPD_PICKLE_DICT ? 2 : 1;
  uint32_t item = value->as.items.first;
  for (uint32_t i = 0; i < value->as.items.n; i += (uint32_t)step) {
    char place[24];
    const struct spd_pickle_value *key = &p->values[p->items[item].value];
    if (++w->visits > MOST_VISITS) return WALK_FAIL("is one of too many");
    if (step == 2) item = p->items[item].next;
    const uint32_t inner = p->items[item].value;
    item = p->items[item].next;
    const int is_place = step == 1 || key->kind == SPD_PICKLE_INTEGER;
    const int digits = !is_place ? 0 : snprintf(place, sizeof place, "%lld", step == 1 ? (long long)i : (long long)key->as.integer);
    if (is_place)
      SPD_TRY(visit_under(w, n, place, (size_t)digits, inner, depth + 1));
    else if (key->kind == SPD_PICKLE_TEXT)
      SPD_TRY(visit_under(w, n, key->as.text.bytes, key->as.text.n, inner, depth + 1));
  }
  return SPD_STATUS_OK;
}

static int by_name(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

static spd_status check_unique(const struct spd_torch *f, struct spd_error *error) {
  const size_t n = f->n_tensors;
  const char **names = malloc((n + 1) * sizeof *names);
  if (!names) return spd_fail(error, SPD_STATUS_NO_MEMORY, "%s: no memory for its tensors", spd_text_tail(f->zip.path));
  for (size_t i = 0; i < n; i++) names[i] = f->tensors[i].name;
  if (n > 1) qsort(names, n, sizeof *names, by_name);
  spd_status status = SPD_STATUS_OK;
  for (size_t i = 1; i < n && status == SPD_STATUS_OK; i++)
    if (strcmp(names[i - 1], names[i]) == 0)
      status = spd_fail(error, SPD_STATUS_FORMAT, "%s: holds tensor '%s' twice", spd_text_tail(f->zip.path), spd_text_shown(names[i]).text);
  free(names);
  return status;
}

/* ---- files ---- */

/* The entry FOLDER/data.pkl; `folder` gets its folder and the slash. */
static spd_status find_pickle(const struct spd_zip_entry **pickle, char folder[MOST_NAME], const struct spd_zip *zip,
                              struct spd_error *error) {
  static const char own[] = "data.pkl";
  *pickle = NULL;
  for (size_t i = 0; i < zip->n_entries; i++) {
    const char *name = zip->entries[i].name, *slash = strchr(name, '/');
    const size_t n = slash ? (size_t)(slash - name) + 1 : 0;
    if (strcmp(name + n, own) != 0 || n >= MOST_NAME) continue;
    if (*pickle) return spd_fail(error, SPD_STATUS_FORMAT, "%s: holds more than one %s", spd_text_tail(zip->path), own);
    *pickle = &zip->entries[i];
    memcpy(folder, name, n);
    folder[n] = 0;
  }
  if (!*pickle)
    return spd_fail(error, SPD_STATUS_FORMAT, "%s: a ZIP archive, but not one of torch.save(): it has no %s", spd_text_tail(zip->path),
                    own);
  if ((*pickle)->bytes > MOST_PICKLE)
    return spd_fail(error, SPD_STATUS_FORMAT, "%s: its pickle is longer than 64 MB", spd_text_tail(zip->path));
  return SPD_STATUS_OK;
}

/* Older files, always little-endian, have no such entry. */
static spd_status read_byte_order(struct spd_torch *f, const char *folder, struct spd_error *error) {
  char name[2 * MOST_NAME], order[8] = "";
  snprintf(name, sizeof name, "%sbyteorder", folder);
  const struct spd_zip_entry *entry = spd_zip_find(&f->zip, name);
  if (!entry) return SPD_STATUS_OK;
  if (entry->bytes < sizeof order) SPD_TRY(spd_zip_read(order, &f->zip, entry, error));
  f->is_big = strcmp(order, "big") == 0;
  if (!f->is_big && strcmp(order, "little") != 0)
    return spd_fail(error, SPD_STATUS_FORMAT, "%s: its byte order is neither little nor big", spd_text_tail(f->zip.path));
  return SPD_STATUS_OK;
}

static spd_status read_pickle(struct spd_torch *f, const struct spd_zip_entry *entry, const char *folder, unsigned char *bytes,
                              struct spd_error *error) {
  struct spd_pickle pickle;
  SPD_TRY(spd_zip_read(bytes, &f->zip, entry, error));
  SPD_TRY(spd_pickle_read(&pickle, bytes, (size_t)entry->bytes, f->zip.path, error));
  struct walk w = {.file = f, .pickle = &pickle, .folder = folder, .error = error};
  spd_status status = visit(&w, pickle.root, 0);
  if (status == SPD_STATUS_OK) status = check_unique(f, error);
  spd_pickle_free(&pickle);
  return status;
}

static spd_status open_file(struct spd_torch *f, const char *path, struct spd_error *error) {
  char folder[MOST_NAME];
  const struct spd_zip_entry *entry = NULL;
  if (starts_with(path, old_start))
    return spd_fail(
        error, SPD_STATUS_FORMAT,
        "%s: in the format of torch.save() before PyTorch 1.6; in Python, torch.save(torch.load(\"old.pt\", weights_only=True), "
        "\"new.pt\") writes the present one",
        spd_text_tail(path));
  SPD_TRY(spd_zip_open(&f->zip, path, error));
  SPD_TRY(find_pickle(&entry, folder, &f->zip, error));
  SPD_TRY(read_byte_order(f, folder, error));
  unsigned char *bytes = malloc((size_t)entry->bytes + 1);
  if (!bytes) return spd_fail(error, SPD_STATUS_NO_MEMORY, "%s: no memory for its pickle", spd_text_tail(path));
  const spd_status status = read_pickle(f, entry, folder, bytes, error);
  free(bytes);
  return status;
}

spd_status spd_torch_open(struct spd_torch **file, const char *path, struct spd_error *error) {
  *file = NULL;
  struct spd_torch *f = calloc(1, sizeof *f);
  if (!f) return spd_fail(error, SPD_STATUS_NO_MEMORY, "%s: no memory to open it", spd_text_tail(path));
  f->zip.descriptor = -1;
  const spd_status status = open_file(f, path, error);
  if (status == SPD_STATUS_OK)
    *file = f;
  else
    spd_torch_close(f);
  return status;
}

void spd_torch_close(struct spd_torch *file) {
  if (!file) return;
  for (size_t i = 0; i < file->n_tensors; i++) free((char *)file->tensors[i].name);
  free(file->tensors);
  spd_zip_close(&file->zip);
  free(file);
}

spd_status spd_torch_read(double *values, const struct spd_torch *file, const struct spd_torch_tensor *tensor, struct spd_error *error) {
  const size_t size = spd_dtype_size(tensor->dtype), bytes = (size_t)tensor->storage->bytes;
  size_t index[SPD_TENSOR_MAX_RANK] = {0}, at = tensor->offset;
  unsigned char *storage = malloc(bytes + 1);
  if (!storage)
    return spd_fail(error, SPD_STATUS_NO_MEMORY, "%s: no memory for tensor '%s'", spd_text_tail(file->zip.path),
                    spd_text_shown(tensor->name).text);
  const spd_status status = spd_zip_read(storage, &file->zip, tensor->storage, error);
  if (status == SPD_STATUS_OK && file->is_big) spd_swap_bytes(storage, bytes / size, size);
  for (size_t i = 0; status == SPD_STATUS_OK && i < tensor->count; i++) {
    values[i] = spd_dtype_value(tensor->dtype, storage + at * size);
    for (size_t d = tensor->rank; d-- > 0;) { /* to the next element, the last side fastest */
      at += tensor->stride[d];
      if (++index[d] < tensor->shape[d]) break;
      at -= tensor->shape[d] * tensor->stride[d];
      index[d] = 0;
    }
  }
  free(storage);
  return status;
}
