#define _POSIX_C_SOURCE 200809L
#define _FILE_OFFSET_BITS 64

#include "data/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/bytes.h"
#include "core/files.h"
#include "core/text.h"

enum { PREFIX = 8, MOST_HEADER = 100000000, CHUNK = 65536 }; /* the format's own limit for a header: 100 MB */

static char *utf8_put(char *to, uint32_t c) {
  if (c < 0x80) {
    *to++ = (char)c;
  } else if (c < 0x800) {
    *to++ = (char)(0xc0 | c >> 6);
    *to++ = (char)(0x80 | (c & 0x3f));
  } else if (c < 0x10000) {
    *to++ = (char)(0xe0 | c >> 12);
    *to++ = (char)(0x80 | (c >> 6 & 0x3f));
    *to++ = (char)(0x80 | (c & 0x3f));
  } else {
    *to++ = (char)(0xf0 | c >> 18);
    *to++ = (char)(0x80 | (c >> 12 & 0x3f));
    *to++ = (char)(0x80 | (c >> 6 & 0x3f));
    *to++ = (char)(0x80 | (c & 0x3f));
  }
  return to;
}

/* ---- the header's JSON: an object of objects, and strings, unsigned integers and arrays of them ---- */

struct parser {
  const char *path;
  char *start, *at, *end; /* the header; *end is readable and 0 */
  struct spd_error *error;
};

static spd_status malformed(const struct parser *p, const char *what) {
  return spd_fail(p->error, SPD_STATUS_FORMAT, "%s: not a safetensors file: %s at byte %zu of its header", spd_text_tail(p->path), what,
                  (size_t)(p->at - p->start));
}

static void skip_space(struct parser *p) {
  while (p->at < p->end && (*p->at == ' ' || *p->at == '\t' || *p->at == '\n' || *p->at == '\r')) p->at++;
}

/* Skips white space and the character c; 0 if another character follows. */
static int accept(struct parser *p, char c) {
  skip_space(p);
  if (p->at == p->end || *p->at != c) return 0;
  p->at++;
  return 1;
}

static spd_status expect(struct parser *p, char c) {
  char what[] = "expected ' '";
  if (accept(p, c)) return SPD_STATUS_OK;
  what[10] = c;
  return malformed(p, what);
}

static int hex4(const char *s, const char *end, uint32_t *value) {
  if (end - s < 4) return 0;
  *value = 0;
  for (int i = 0; i < 4; i++) {
    char c = s[i];
    uint32_t digit = c >= '0' && c <= '9'   ? (uint32_t)(c - '0')
                     : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a' + 10)
                     : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A' + 10)
                                            : 16;
    if (digit == 16) return 0;
    *value = *value << 4 | digit;
  }
  return 1;
}

/* \uXXXX with p->at on the first digit; surrogates come in pairs, and C and R strings cannot contain NUL. */
static spd_status parse_unicode(struct parser *p, uint32_t *c) {
  uint32_t low;
  if (!hex4(p->at, p->end, c)) return malformed(p, "a broken \\u escape");
  p->at += 4;
  if (*c == 0) return malformed(p, "a NUL character");
  if (*c < 0xd800 || *c > 0xdfff) return SPD_STATUS_OK;
  if (*c > 0xdbff || p->end - p->at < 6 || p->at[0] != '\\' || p->at[1] != 'u' || !hex4(p->at + 2, p->end, &low) || low < 0xdc00 ||
      low > 0xdfff)
    return malformed(p, "a lone surrogate");
  p->at += 6;
  *c = 0x10000 + ((*c - 0xd800) << 10) + (low - 0xdc00);
  return SPD_STATUS_OK;
}

/* Decodes in place: no escape is shorter than its character, and the closing quote leaves room for the terminating 0. */
static spd_status parse_string(struct parser *p, const char **string) {
  skip_space(p);
  if (p->at == p->end || *p->at != '"') return malformed(p, "expected a string");
  char *to = ++p->at;
  *string = to;
  for (;;) {
    if (p->at == p->end) return malformed(p, "a string without an end");
    unsigned char c = (unsigned char)*p->at;
    if (c == '"') break;
    if (c < 0x20) return malformed(p, "a control character in a string");
    if (c != '\\') {
      size_t n = spd_text_utf8_length((unsigned char *)p->at, (unsigned char *)p->end);
      if (n == 0) return malformed(p, "text that is not UTF-8");
      memmove(to, p->at, n);
      to += n, p->at += n;
      continue;
    }
    p->at++;
    if (p->at == p->end) return malformed(p, "a string without an end");
    static const char escapes[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    const char *escape = *p->at ? strchr(escapes, *p->at) : NULL;
    if (escape) {
      *to++ = meanings[escape - escapes];
      p->at++;
    } else if (*p->at == 'u') {
      uint32_t code = 0;
      p->at++;
      SPD_TRY(parse_unicode(p, &code));
      to = utf8_put(to, code);
    } else {
      return malformed(p, "an unknown escape");
    }
  }
  *to = 0;
  p->at++;
  return SPD_STATUS_OK;
}

static spd_status parse_unsigned(struct parser *p, uint64_t *value) {
  skip_space(p);
  char *first = p->at;
  *value = 0;
  for (; p->at < p->end && *p->at >= '0' && *p->at <= '9'; p->at++) {
    unsigned digit = (unsigned)(*p->at - '0');
    if (*value > (UINT64_MAX - digit) / 10) return malformed(p, "an integer beyond 64 bits");
    *value = *value * 10 + digit;
  }
  if (p->at == first) return malformed(p, "expected an unsigned integer");
  if (*first == '0' && p->at - first > 1) return malformed(p, "an integer with a leading zero");
  if (p->at < p->end && (*p->at == '.' || *p->at == 'e' || *p->at == 'E')) return malformed(p, "expected an unsigned integer");
  return SPD_STATUS_OK;
}

static spd_status parse_unsigned_array(struct parser *p, uint64_t *values, size_t most, size_t *n) {
  SPD_TRY(expect(p, '['));
  *n = 0;
  if (accept(p, ']')) return SPD_STATUS_OK;
  do {
    if (*n == most) return malformed(p, "an array that is too long");
    SPD_TRY(parse_unsigned(p, &values[(*n)++]));
  } while (accept(p, ','));
  return expect(p, ']');
}

/* Room for one more element; arrays grow by doubling, so they stay within a small multiple of the header. */
static spd_status grow(void **array, size_t n, size_t size, const struct parser *p) {
  if (n & (n - 1)) return SPD_STATUS_OK;
  void *larger = realloc(*array, (n ? 2 * n : 1) * size);
  if (!larger) return spd_fail(p->error, SPD_STATUS_NO_MEMORY, "%s: no memory for its header", spd_text_tail(p->path));
  *array = larger;
  return SPD_STATUS_OK;
}

static spd_status parse_metadata(struct spd_safetensors *f, struct parser *p) {
  SPD_TRY(expect(p, '{'));
  if (accept(p, '}')) return SPD_STATUS_OK;
  do {
    SPD_TRY(grow((void **)&f->metadata, f->n_metadata, sizeof *f->metadata, p));
    struct spd_safetensors_pair *pair = &f->metadata[f->n_metadata];
    SPD_TRY(parse_string(p, &pair->key));
    SPD_TRY(expect(p, ':'));
    SPD_TRY(parse_string(p, &pair->value));
    f->n_metadata++;
  } while (accept(p, ','));
  return expect(p, '}');
}

#define TENSOR_FAIL(...) tensor_fail(p, t->name, __VA_ARGS__)
static spd_status tensor_fail(const struct parser *p, const char *name, const char *what) {
  return spd_fail(p->error, SPD_STATUS_FORMAT, "%s: tensor '%s' %s", spd_text_tail(p->path), spd_text_shown(name).text, what);
}

static spd_status parse_tensor(struct spd_safetensors_tensor *t, struct parser *p) {
  enum { DTYPE = 1, SHAPE = 2, OFFSETS = 4 };
  unsigned seen = 0;
  uint64_t shape[SPD_TENSOR_MAX_RANK], offsets[2];
  size_t n_offsets = 0;
  SPD_TRY(expect(p, '{'));
  do {
    const char *key, *dtype;
    SPD_TRY(parse_string(p, &key));
    SPD_TRY(expect(p, ':'));
    unsigned field = strcmp(key, "dtype") == 0 ? DTYPE : strcmp(key, "shape") == 0 ? SHAPE : OFFSETS;
    if (field == OFFSETS && strcmp(key, "data_offsets") != 0) return TENSOR_FAIL("has a field other than dtype, shape and data_offsets");
    if (seen & field) return TENSOR_FAIL("has one field twice");
    seen |= field;
    if (field == DTYPE) {
      SPD_TRY(parse_string(p, &dtype));
      if (!spd_dtype_find(&t->dtype, dtype))
        return spd_fail(p->error, SPD_STATUS_FORMAT, "%s: tensor '%s' has the unknown data type '%s'", spd_text_tail(p->path),
                        spd_text_shown(t->name).text, spd_text_shown(dtype).text);
    } else if (field == SHAPE) {
      SPD_TRY(parse_unsigned_array(p, shape, SPD_TENSOR_MAX_RANK, &t->rank));
    } else {
      SPD_TRY(parse_unsigned_array(p, offsets, 2, &n_offsets));
    }
  } while (accept(p, ','));
  SPD_TRY(expect(p, '}'));
  if (seen != (DTYPE | SHAPE | OFFSETS) || n_offsets != 2) return TENSOR_FAIL("lacks its dtype, shape or two data_offsets");

  t->count = 1;
  int empty = 0;
  for (size_t i = 0; i < t->rank; i++) {
    if (shape[i] > SIZE_MAX / 8) return TENSOR_FAIL("has a shape that overflows");
    t->shape[i] = (size_t)shape[i];
    if (shape[i] == 0) empty = 1;
  }
  for (size_t i = 0; i < t->rank && !empty; i++) {
    if (t->count > SIZE_MAX / 8 / t->shape[i]) return TENSOR_FAIL("has a shape that overflows");
    t->count *= t->shape[i];
  }
  if (empty) t->count = 0;
  t->begin = offsets[0], t->end = offsets[1];
  if (t->begin > t->end) return TENSOR_FAIL("ends before it begins");
  if (t->end - t->begin != (uint64_t)t->count * spd_dtype_size(t->dtype))
    return TENSOR_FAIL("has data_offsets that do not fit its shape and dtype");
  return SPD_STATUS_OK;
}

static int by_offset(const void *a, const void *b) {
  const struct spd_safetensors_tensor *s = a, *t = b;
  if (s->begin != t->begin) return s->begin < t->begin ? -1 : 1;
  if (s->end != t->end) return s->end < t->end ? -1 : 1; /* empty ones first */
  return strcmp(s->name, t->name);
}

static int by_text(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

/* The text that occurs twice in (n) strings, or NULL; sorts them. */
static const char *find_twice(const char **texts, size_t n) {
  if (n > 1) qsort(texts, n, sizeof *texts, by_text);
  for (size_t i = 1; i < n; i++)
    if (strcmp(texts[i - 1], texts[i]) == 0) return texts[i];
  return NULL;
}

static spd_status check_unique(const struct spd_safetensors *f, const struct parser *p) {
  size_t n = f->n_tensors + f->n_metadata;
  const char **texts = malloc((n ? n : 1) * sizeof *texts);
  if (!texts) return spd_fail(p->error, SPD_STATUS_NO_MEMORY, "%s: no memory for its header", spd_text_tail(p->path));
  spd_status status = SPD_STATUS_OK;
  for (size_t i = 0; i < f->n_tensors; i++) texts[i] = f->tensors[i].name;
  const char *twice = find_twice(texts, f->n_tensors);
  if (twice) {
    status = tensor_fail(p, twice, "stands in the header twice");
  } else {
    for (size_t i = 0; i < f->n_metadata; i++) texts[i] = f->metadata[i].key;
    twice = find_twice(texts, f->n_metadata);
    if (twice)
      status = spd_fail(p->error, SPD_STATUS_FORMAT, "%s: metadata '%s' stands in the header twice", spd_text_tail(p->path),
                        spd_text_shown(twice).text);
  }
  free(texts);
  return status;
}

static spd_status parse_header(struct spd_safetensors *f, struct parser *p, uint64_t data_bytes) {
  int seen_metadata = 0;
  if (*p->at != '{') return malformed(p, "expected '{'"); /* the format allows no space here */
  p->at++;
  if (!accept(p, '}')) {
    do {
      const char *name;
      SPD_TRY(parse_string(p, &name));
      SPD_TRY(expect(p, ':'));
      if (strcmp(name, "__metadata__") == 0) {
        if (seen_metadata) return malformed(p, "a second __metadata__");
        seen_metadata = 1;
        SPD_TRY(parse_metadata(f, p));
      } else {
        SPD_TRY(grow((void **)&f->tensors, f->n_tensors, sizeof *f->tensors, p));
        struct spd_safetensors_tensor *t = &f->tensors[f->n_tensors];
        memset(t, 0, sizeof *t);
        t->name = name;
        SPD_TRY(parse_tensor(t, p));
        f->n_tensors++;
      }
    } while (accept(p, ','));
    SPD_TRY(expect(p, '}'));
  }
  skip_space(p);
  if (p->at != p->end) return malformed(p, "something behind the closing brace");
  SPD_TRY(check_unique(f, p));

  if (f->n_tensors > 1) qsort(f->tensors, f->n_tensors, sizeof *f->tensors, by_offset);
  uint64_t reached = 0;
  for (size_t i = 0; i < f->n_tensors; i++) {
    const struct spd_safetensors_tensor *t = &f->tensors[i];
    if (t->begin < reached) return TENSOR_FAIL("overlaps another");
    if (t->begin > reached) return TENSOR_FAIL("leaves a hole before it");
    if (t->end > data_bytes) return TENSOR_FAIL("reaches past the end of the file: the file is cut short");
    reached = t->end;
  }
  if (reached != data_bytes)
    return spd_fail(p->error, SPD_STATUS_FORMAT, "%s: %llu bytes follow the last tensor", spd_text_tail(p->path),
                    (unsigned long long)(data_bytes - reached));
  return SPD_STATUS_OK;
}

/* ---- reading ---- */

static spd_status io_fail(struct spd_error *error, const char *path, const char *verb) {
  return spd_fail(error, SPD_STATUS_IO, "%s: cannot %s: %s", spd_text_tail(path), verb, strerror(errno));
}

static spd_status read_at(void *to, size_t bytes, uint64_t offset, int descriptor, const char *path, struct spd_error *error) {
  const int read = spd_file_read(to, bytes, offset, descriptor);
  if (read == 0) return spd_fail(error, SPD_STATUS_FORMAT, "%s: the file is cut short", spd_text_tail(path));
  return read < 0 ? io_fail(error, path, "read") : SPD_STATUS_OK;
}

static spd_status open_file(struct spd_safetensors *f, struct spd_error *error) {
  struct stat info;
  unsigned char prefix[PREFIX];
  const char *path = f->path;
  /* without O_NONBLOCK a named pipe would wait for its writer */
  f->descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (f->descriptor < 0) return io_fail(error, path, "open");
  if (fstat(f->descriptor, &info) != 0) return io_fail(error, path, "read");
  if (!S_ISREG(info.st_mode)) return spd_fail(error, SPD_STATUS_IO, "%s: cannot read: not a regular file", spd_text_tail(path));
  uint64_t size = (uint64_t)info.st_size;
  if (size < PREFIX)
    return spd_fail(error, SPD_STATUS_FORMAT, "%s: not a safetensors file: only %llu bytes long", spd_text_tail(path),
                    (unsigned long long)size);
  SPD_TRY(read_at(prefix, PREFIX, 0, f->descriptor, path, error));
  uint64_t length = spd_get_little(prefix, PREFIX);
  if (length < 2 || length > MOST_HEADER)
    return spd_fail(error, SPD_STATUS_FORMAT, "%s: not a safetensors file: a header of %llu bytes is not possible", spd_text_tail(path),
                    (unsigned long long)length);
  if (length > size - PREFIX)
    return spd_fail(error, SPD_STATUS_FORMAT, "%s: the file is cut short, or not a safetensors file: its header should have %llu bytes",
                    spd_text_tail(path), (unsigned long long)length);
  f->header = malloc((size_t)length + 1);
  if (!f->header) return spd_fail(error, SPD_STATUS_NO_MEMORY, "%s: no memory for its header", spd_text_tail(path));
  SPD_TRY(read_at(f->header, (size_t)length, PREFIX, f->descriptor, path, error));
  f->header[length] = 0;
  f->data = PREFIX + length;
  struct parser p = {path, f->header, f->header, f->header + length, error};
  return parse_header(f, &p, size - f->data);
}

spd_status spd_safetensors_open(struct spd_safetensors **file, const char *path, struct spd_error *error) {
  *file = NULL;
  struct spd_safetensors *f = calloc(1, sizeof *f);
  if (f) f->descriptor = -1, f->path = malloc(strlen(path) + 1);
  if (!f || !f->path) {
    free(f);
    return spd_fail(error, SPD_STATUS_NO_MEMORY, "%s: no memory to open it", spd_text_tail(path));
  }
  strcpy(f->path, path);
  spd_status status = open_file(f, error);
  if (status == SPD_STATUS_OK) {
    *file = f;
  } else {
    spd_safetensors_close(f);
  }
  return status;
}

void spd_safetensors_close(struct spd_safetensors *file) {
  if (!file) return;
  if (file->descriptor >= 0) close(file->descriptor);
  free(file->tensors);
  free(file->metadata);
  free(file->header);
  free(file->path);
  free(file);
}

const struct spd_safetensors_tensor *spd_safetensors_find(const struct spd_safetensors *file, const char *name) {
  for (size_t i = 0; i < file->n_tensors; i++)
    if (strcmp(file->tensors[i].name, name) == 0) return &file->tensors[i];
  return NULL;
}

const char *spd_safetensors_metadata(const struct spd_safetensors *file, const char *key) {
  for (size_t i = 0; i < file->n_metadata; i++)
    if (strcmp(file->metadata[i].key, key) == 0) return file->metadata[i].value;
  return NULL;
}

spd_status spd_safetensors_read(void *values, const struct spd_safetensors *file, const struct spd_safetensors_tensor *tensor,
                                struct spd_error *error) {
  size_t size = spd_dtype_size(tensor->dtype);
  SPD_TRY(read_at(values, tensor->count * size, file->data + tensor->begin, file->descriptor, file->path, error));
  if (!spd_host_is_little()) spd_swap_bytes(values, tensor->count, size);
  return SPD_STATUS_OK;
}

/* Exactly one of floats and doubles is not NULL. */
static spd_status read_converted(float *floats, double *doubles, const struct spd_safetensors *file,
                                 const struct spd_safetensors_tensor *tensor, struct spd_error *error) {
  unsigned char chunk[CHUNK];
  size_t size = spd_dtype_size(tensor->dtype), most = CHUNK / size;
  for (size_t i = 0; i < tensor->count; i += most) {
    size_t n = tensor->count - i < most ? tensor->count - i : most;
    SPD_TRY(read_at(chunk, n * size, file->data + tensor->begin + i * size, file->descriptor, file->path, error));
    if (floats)
      for (size_t j = 0; j < n; j++) floats[i + j] = (float)spd_dtype_value(tensor->dtype, chunk + j * size);
    else
      for (size_t j = 0; j < n; j++) doubles[i + j] = spd_dtype_value(tensor->dtype, chunk + j * size);
  }
  return SPD_STATUS_OK;
}

spd_status spd_safetensors_read_float(float *values, const struct spd_safetensors *file, const struct spd_safetensors_tensor *tensor,
                                      struct spd_error *error) {
  if (tensor->dtype > SPD_DTYPE_BF16)
    return spd_fail(error, SPD_STATUS_FORMAT, "%s: tensor '%s' holds %s where floating-point numbers belong", spd_text_tail(file->path),
                    spd_text_shown(tensor->name).text, spd_dtype_name(tensor->dtype));
  if (tensor->dtype == SPD_DTYPE_F32) return spd_safetensors_read(values, file, tensor, error);
  return read_converted(values, NULL, file, tensor, error);
}

spd_status spd_safetensors_read_double(double *values, const struct spd_safetensors *file, const struct spd_safetensors_tensor *tensor,
                                       struct spd_error *error) {
  return read_converted(NULL, values, file, tensor, error);
}

/* ---- writing ---- */

/* A growing text. `failed` is set when memory runs out and is checked once, at the end. */
struct text {
  char *bytes;
  size_t length, capacity;
  int failed;
};

static void put_bytes(struct text *t, const char *bytes, size_t n) {
  if (t->failed) return;
  if (n > t->capacity - t->length) {
    size_t capacity = 2 * t->capacity + n + 256;
    char *larger = realloc(t->bytes, capacity);
    if (!larger) {
      t->failed = 1;
      return;
    }
    t->bytes = larger, t->capacity = capacity;
  }
  memcpy(t->bytes + t->length, bytes, n);
  t->length += n;
}

static void put(struct text *t, const char *string) { put_bytes(t, string, strlen(string)); }

static void put_unsigned(struct text *t, uint64_t value) {
  char digits[24];
  snprintf(digits, sizeof digits, "%llu", (unsigned long long)value);
  put(t, digits);
}

static void put_string(struct text *t, const char *string) {
  char escape[8];
  put(t, "\"");
  for (; *string; string++) {
    if (*string == '"' || *string == '\\') {
      put(t, "\\");
      put_bytes(t, string, 1);
    } else if ((unsigned char)*string < 0x20) {
      snprintf(escape, sizeof escape, "\\u%04x", (unsigned)(unsigned char)*string);
      put(t, escape);
    } else {
      put_bytes(t, string, 1);
    }
  }
  put(t, "\"");
}

static spd_status check_items(const char *path, const struct spd_safetensors_item *items, size_t n_items,
                              const struct spd_safetensors_pair *metadata, size_t n_metadata, struct spd_error *error) {
  size_t n = n_items > n_metadata ? n_items : n_metadata;
  for (size_t i = 0; i < n_items; i++) {
    const struct spd_safetensors_item *item = &items[i];
    size_t count = 1;
    int fits = item->rank <= SPD_TENSOR_MAX_RANK && (unsigned)item->dtype < SPD_N_DTYPES &&
               spd_text_is_utf8(item->name, strlen(item->name)) && strcmp(item->name, "__metadata__") != 0;
    for (size_t j = 0; fits && j < item->rank && count > 0; j++) {
      fits = item->shape[j] == 0 || count <= SIZE_MAX / 8 / item->shape[j];
      count *= item->shape[j];
    }
    if (!fits || (count > 0 && !item->values))
      return spd_fail(error, SPD_STATUS_INVALID, "%s: tensor '%s' has a name, type or shape that cannot be written", spd_text_tail(path),
                      spd_text_shown(item->name).text);
  }
  for (size_t i = 0; i < n_metadata; i++)
    if (!spd_text_is_utf8(metadata[i].key, strlen(metadata[i].key)) || !spd_text_is_utf8(metadata[i].value, strlen(metadata[i].value)))
      return spd_fail(error, SPD_STATUS_INVALID, "%s: metadata '%s' is not UTF-8", spd_text_tail(path),
                      spd_text_shown(metadata[i].key).text);

  const char **texts = malloc((n ? n : 1) * sizeof *texts);
  if (!texts) return spd_fail(error, SPD_STATUS_NO_MEMORY, "%s: no memory for its header", spd_text_tail(path));
  for (size_t i = 0; i < n_items; i++) texts[i] = items[i].name;
  const char *twice = find_twice(texts, n_items);
  if (!twice) {
    for (size_t i = 0; i < n_metadata; i++) texts[i] = metadata[i].key;
    twice = find_twice(texts, n_metadata);
  }
  spd_status status = SPD_STATUS_OK;
  if (twice)
    status = spd_fail(error, SPD_STATUS_INVALID, "%s: '%s' cannot be written twice", spd_text_tail(path), spd_text_shown(twice).text);
  free(texts);
  return status;
}

static size_t item_bytes(const struct spd_safetensors_item *item) {
  size_t bytes = spd_dtype_size(item->dtype);
  for (size_t i = 0; i < item->rank; i++) bytes *= item->shape[i];
  return bytes;
}

/* Next item in the order of the bytes, from *size = 8, *i = 0: widest elements first, so that each tensor is aligned. */
static const struct spd_safetensors_item *next_item(const struct spd_safetensors_item *items, size_t n, size_t *size, size_t *i) {
  for (; *size > 0; *size /= 2, *i = 0)
    while (*i < n) {
      const struct spd_safetensors_item *item = &items[(*i)++];
      if (spd_dtype_size(item->dtype) == *size) return item;
    }
  return NULL;
}

static void put_header(struct text *t, const struct spd_safetensors_item *items, size_t n_items,
                       const struct spd_safetensors_pair *metadata, size_t n_metadata) {
  const char *separator = "";
  put(t, "{");
  if (n_metadata > 0) {
    put(t, "\"__metadata__\":{");
    for (size_t i = 0; i < n_metadata; i++) {
      put(t, separator);
      put_string(t, metadata[i].key);
      put(t, ":");
      put_string(t, metadata[i].value);
      separator = ",";
    }
    put(t, "}");
  }
  uint64_t offset = 0;
  const struct spd_safetensors_item *item;
  for (size_t size = 8, i = 0; (item = next_item(items, n_items, &size, &i));) {
    put(t, separator);
    separator = ",";
    put_string(t, item->name);
    put(t, ":{\"dtype\":\"");
    put(t, spd_dtype_name(item->dtype));
    put(t, "\",\"shape\":[");
    for (size_t j = 0; j < item->rank; j++) {
      if (j > 0) put(t, ",");
      put_unsigned(t, item->shape[j]);
    }
    put(t, "],\"data_offsets\":[");
    put_unsigned(t, offset);
    put(t, ",");
    offset += item_bytes(item);
    put_unsigned(t, offset);
    put(t, "]}");
  }
  put(t, "}");
  while (!t->failed && t->length % 8 != 0) put(t, " ");
}

/* Advances *offset by the bytes written. */
static int write_little(int file, const void *values, size_t bytes, size_t size, uint64_t *offset) {
  unsigned char chunk[CHUNK];
  const uint64_t start = *offset;
  *offset += bytes;
  if (spd_host_is_little()) return spd_file_write(file, values, bytes, start);
  for (size_t i = 0; i < bytes; i += CHUNK) {
    const size_t n = bytes - i < CHUNK ? bytes - i : CHUNK;
    memcpy(chunk, (const char *)values + i, n);
    spd_swap_bytes(chunk, n / size, size);
    if (!spd_file_write(file, chunk, n, start + i)) return 0;
  }
  return 1;
}

static int write_content(int file, const struct text *header, const struct spd_safetensors_item *items, size_t n_items) {
  unsigned char prefix[PREFIX];
  uint64_t offset = PREFIX + header->length;
  for (int i = 0; i < PREFIX; i++) prefix[i] = (unsigned char)((uint64_t)header->length >> 8 * i);
  if (!spd_file_write(file, prefix, PREFIX, 0) || !spd_file_write(file, header->bytes, header->length, PREFIX)) return 0;
  const struct spd_safetensors_item *item;
  for (size_t size = 8, i = 0; (item = next_item(items, n_items, &size, &i));)
    if (!write_little(file, item->values, item_bytes(item), size, &offset)) return 0;
  return 1;
}

static spd_status write_file(const char *path, const struct text *header, const struct spd_safetensors_item *items, size_t n_items,
                             int overwrite, struct spd_error *error) {
  struct spd_new_file file;
  if (!spd_file_begin(&file, path)) return io_fail(error, path, "write");
  if (write_content(file.descriptor, header, items, n_items) && spd_file_publish(&file, overwrite)) return SPD_STATUS_OK;
  spd_file_discard(&file);
  return io_fail(error, path, "write");
}

spd_status spd_safetensors_write(const char *path, const struct spd_safetensors_item *items, size_t n_items,
                                 const struct spd_safetensors_pair *metadata, size_t n_metadata, int overwrite, struct spd_error *error) {
  struct stat info;
  SPD_TRY(check_items(path, items, n_items, metadata, n_metadata, error));
  if (!overwrite && lstat(path, &info) == 0) /* spd_file_publish() decides; this spares the work */
    return errno = EEXIST, io_fail(error, path, "write");

  struct text header = {NULL, 0, 0, 0};
  put_header(&header, items, n_items, metadata, n_metadata);
  spd_status status;
  if (header.failed)
    status = spd_fail(error, SPD_STATUS_NO_MEMORY, "%s: no memory for its header", spd_text_tail(path));
  else if (header.length > MOST_HEADER)
    status = spd_fail(error, SPD_STATUS_INVALID, "%s: names and metadata exceed the format's 100 MB", spd_text_tail(path));
  else
    status = write_file(path, &header, items, n_items, overwrite, error);
  free(header.bytes);
  return status;
}
