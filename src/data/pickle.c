#include "data/pickle.h"

#include <stdlib.h>
#include <string.h>

#include "core/bytes.h"
#include "core/text.h"

/* ---- the names that a pickle may mention ---- */

typedef enum {
  REBUILD_TENSOR,    /* (storage, offset, size, stride, requires_grad, hooks[, metadata]) */
  REBUILD_PARAMETER, /* (tensor, requires_grad, hooks) */
  ORDERED_DICT,      /* () */
  OPAQUE_CALL,       /* whatever NumPy's arguments are, the result is not kept */
  OPAQUE_TYPE,       /* an argument of those, not called */
  STORAGE_TYPE
} meaning;

static const struct {
  const char *module, *name;
  meaning meaning;
  spd_dtype dtype; /* of a STORAGE_TYPE */
} names[] = {{"torch._utils", "_rebuild_tensor_v2", REBUILD_TENSOR, 0},
             {"torch._utils", "_rebuild_parameter", REBUILD_PARAMETER, 0},
             {"collections", "OrderedDict", ORDERED_DICT, 0},
             {"torch", "DoubleStorage", STORAGE_TYPE, SPD_DTYPE_F64},
             {"torch", "FloatStorage", STORAGE_TYPE, SPD_DTYPE_F32},
             {"torch", "HalfStorage", STORAGE_TYPE, SPD_DTYPE_F16},
             {"torch", "BFloat16Storage", STORAGE_TYPE, SPD_DTYPE_BF16},
             {"torch", "LongStorage", STORAGE_TYPE, SPD_DTYPE_I64},
             {"torch", "IntStorage", STORAGE_TYPE, SPD_DTYPE_I32},
             {"torch", "ShortStorage", STORAGE_TYPE, SPD_DTYPE_I16},
             {"torch", "CharStorage", STORAGE_TYPE, SPD_DTYPE_I8},
             {"torch", "ByteStorage", STORAGE_TYPE, SPD_DTYPE_U8},
             {"torch", "BoolStorage", STORAGE_TYPE, SPD_DTYPE_BOOL},
             /* the losses beside published weights are NumPy arrays; the modules have an underscore since NumPy 2 */
             {"numpy.core.multiarray", "_reconstruct", OPAQUE_CALL, 0},
             {"numpy._core.multiarray", "_reconstruct", OPAQUE_CALL, 0},
             {"numpy.core.multiarray", "scalar", OPAQUE_CALL, 0},
             {"numpy._core.multiarray", "scalar", OPAQUE_CALL, 0},
             {"numpy", "dtype", OPAQUE_CALL, 0},
             {"numpy", "ndarray", OPAQUE_TYPE, 0},
             {"_codecs", "encode", OPAQUE_CALL, 0},
             {"__builtin__", "bytes", OPAQUE_CALL, 0}};
enum { N_NAMES = sizeof names / sizeof names[0] };

/* ---- the machine ---- */

struct machine {
  struct spd_pickle *made;
  const unsigned char *start, *at, *end;
  const char *path;
  struct spd_error *error;
  uint32_t *stack, *marks, *memo; /* values; heights of the stack; values + 1, 0 where nothing is */
  size_t height, n_marks, n_memo;
};

static spd_status refuse(const struct machine *m, const char *what) {
  return spd_fail(m->error, SPD_STATUS_FORMAT, "%s: not weights that torch.save() wrote: %s at byte %zu of its pickle",
                  spd_text_tail(m->path), what, (size_t)(m->at - m->start));
}

/* Room for one more element; arrays grow by doubling. */
static spd_status grow(void *array, size_t n, size_t size, const struct machine *m) {
  void *old, *larger;
  if (n & (n - 1)) return SPD_STATUS_OK;
  if (n >= SPD_PICKLE_MOST_VALUES) return refuse(m, "too many values");
  memcpy(&old, array, sizeof old);
  larger = realloc(old, (n ? 2 * n : 1) * size);
  if (!larger) return spd_fail(m->error, SPD_STATUS_NO_MEMORY, "%s: no memory for its pickle", spd_text_tail(m->path));
  memcpy(array, &larger, sizeof larger);
  return SPD_STATUS_OK;
}

static spd_status push(struct machine *m, uint32_t value) {
  SPD_TRY(grow(&m->stack, m->height, sizeof *m->stack, m));
  m->stack[m->height++] = value;
  return SPD_STATUS_OK;
}

static spd_status push_new(struct machine *m, struct spd_pickle_value value) {
  SPD_TRY(grow(&m->made->values, m->made->n_values, sizeof value, m));
  m->made->values[m->made->n_values] = value;
  return push(m, (uint32_t)m->made->n_values++);
}

static spd_status push_kind(struct machine *m, spd_pickle_kind kind) { return push_new(m, (struct spd_pickle_value){.kind = kind}); }

static spd_status push_integer(struct machine *m, int64_t integer) {
  return push_new(m, (struct spd_pickle_value){.kind = SPD_PICKLE_INTEGER, .as.integer = integer});
}

/* The next n bytes of the pickle */
static spd_status take(const unsigned char **bytes, size_t n, struct machine *m) {
  if ((size_t)(m->end - m->at) < n) return refuse(m, "an end too early");
  *bytes = m->at;
  m->at += n;
  return SPD_STATUS_OK;
}

static spd_status take_little(uint64_t *value, size_t n, struct machine *m) {
  const unsigned char *bytes = NULL;
  SPD_TRY(take(&bytes, n, m));
  *value = spd_get_little(bytes, n);
  return SPD_STATUS_OK;
}

/* Up to the next line feed */
static spd_status take_line(char line[128], struct machine *m) {
  const size_t left = (size_t)(m->end - m->at), most = left < 127 ? left : 127;
  const unsigned char *stop = memchr(m->at, '\n', most);
  if (!stop || memchr(m->at, 0, (size_t)(stop - m->at))) return refuse(m, "a name without an end");
  const size_t n = (size_t)(stop - m->at);
  memcpy(line, m->at, n);
  line[n] = 0;
  m->at = stop + 1;
  return SPD_STATUS_OK;
}

/* n values on top of the stack, above the last mark; they stay there. */
static spd_status top(uint32_t **values, size_t n, const struct machine *m) {
  const size_t floor = m->n_marks ? m->marks[m->n_marks - 1] : 0;
  if (m->height - floor < n) return refuse(m, "too few values");
  *values = m->stack + m->height - n;
  return SPD_STATUS_OK;
}

/* All values above the last mark, which is removed with them: they stay valid until the next push. */
static spd_status pop_mark(uint32_t **values, size_t *n, struct machine *m) {
  if (m->n_marks == 0) return refuse(m, "too few values");
  const size_t floor = m->marks[--m->n_marks];
  *values = m->stack + floor;
  *n = m->height - floor;
  m->height = floor;
  return SPD_STATUS_OK;
}

static struct spd_pickle_value *value_of(const struct machine *m, uint32_t value) { return &m->made->values[value]; }

static spd_status add_item(struct machine *m, uint32_t to, uint32_t value) {
  struct spd_pickle *made = m->made;
  SPD_TRY(grow(&made->items, made->n_items, sizeof *made->items, m));
  const uint32_t item = (uint32_t)made->n_items++;
  struct spd_pickle_value *container = value_of(m, to);
  made->items[item] = (struct spd_pickle_item){value, 0};
  if (container->as.items.n++ == 0)
    container->as.items.first = item;
  else
    made->items[container->as.items.last].next = item;
  container->as.items.last = item;
  return SPD_STATUS_OK;
}

/* Adds (n) values to the container below them, which is on top of the stack. */
static spd_status add_items(struct machine *m, spd_pickle_kind kind, const uint32_t *values, size_t n) {
  uint32_t *container = NULL;
  SPD_TRY(top(&container, 1, m));
  if (value_of(m, *container)->kind != kind || (kind == SPD_PICKLE_DICT && n % 2 != 0)) return refuse(m, "items of something else");
  for (size_t i = 0; i < n; i++) SPD_TRY(add_item(m, *container, values[i]));
  return SPD_STATUS_OK;
}

static spd_status make_tuple(struct machine *m, const uint32_t *values, size_t n) {
  const uint32_t tuple = (uint32_t)m->made->n_values;
  struct spd_pickle_value empty = {.kind = SPD_PICKLE_TUPLE};
  SPD_TRY(grow(&m->made->values, m->made->n_values, sizeof empty, m));
  m->made->values[m->made->n_values++] = empty;
  for (size_t i = 0; i < n; i++) SPD_TRY(add_item(m, tuple, values[i]));
  return push(m, tuple);
}

/* The first `most` items of a tuple, and how many it has */
static size_t items_of(uint32_t *values, size_t most, const struct spd_pickle_value *tuple, const struct machine *m) {
  uint32_t item = tuple->as.items.first;
  for (uint32_t i = 0; i < tuple->as.items.n && i < most; i++) {
    values[i] = m->made->items[item].value;
    item = m->made->items[item].next;
  }
  return tuple->as.items.n;
}

/* ---- names and calls ---- */

static spd_status name(struct machine *m) {
  char module[128], what[128];
  SPD_TRY(take_line(module, m));
  SPD_TRY(take_line(what, m));
  for (size_t i = 0; i < N_NAMES; i++)
    if (strcmp(names[i].module, module) == 0 && strcmp(names[i].name, what) == 0)
      return push_new(m, (struct spd_pickle_value){.kind = SPD_PICKLE_NAME, .as.name = i});
  return spd_fail(m->error, SPD_STATUS_FORMAT,
                  "%s: refused: its pickle asks for '%s' of '%s', which weights do not need; nothing of it was run", spd_text_tail(m->path),
                  spd_text_shown(what).text, spd_text_shown(module).text);
}

/* ('storage', type, key, location, number of elements) */
static spd_status storage(struct machine *m) {
  uint32_t *id = NULL, v[5];
  SPD_TRY(top(&id, 1, m));
  const struct spd_pickle_value *tuple = value_of(m, *id);
  if (tuple->kind != SPD_PICKLE_TUPLE || items_of(v, 5, tuple, m) != 5) return refuse(m, "a storage without its place");
  const struct spd_pickle_value *word = value_of(m, v[0]), *type = value_of(m, v[1]), *key = value_of(m, v[2]), *n = value_of(m, v[4]);
  if (word->kind != SPD_PICKLE_TEXT || word->as.text.n != 7 || memcmp(word->as.text.bytes, "storage", 7) != 0 ||
      type->kind != SPD_PICKLE_NAME || names[type->as.name].meaning != STORAGE_TYPE || key->kind != SPD_PICKLE_TEXT ||
      n->kind != SPD_PICKLE_INTEGER || n->as.integer < 0)
    return refuse(m, "a storage without its place");
  struct spd_pickle *made = m->made;
  SPD_TRY(grow(&made->storages, made->n_storages, sizeof *made->storages, m));
  made->storages[made->n_storages] = (struct spd_pickle_storage){
      .dtype = names[type->as.name].dtype, .count = (uint64_t)n->as.integer, .key = key->as.text.bytes, .key_bytes = key->as.text.n};
  m->height--;
  return push_new(m, (struct spd_pickle_value){.kind = SPD_PICKLE_STORAGE, .as.storage = made->n_storages++});
}

/* A tuple of up to SPD_TENSOR_MAX_RANK integers, none of them negative */
static spd_status sides(uint64_t *sides, size_t *rank, const struct spd_pickle_value *tuple, const struct machine *m) {
  uint32_t v[SPD_TENSOR_MAX_RANK];
  if (tuple->kind != SPD_PICKLE_TUPLE || tuple->as.items.n > SPD_TENSOR_MAX_RANK) return refuse(m, "a tensor without a shape");
  *rank = items_of(v, SPD_TENSOR_MAX_RANK, tuple, m);
  for (size_t i = 0; i < *rank; i++) {
    const struct spd_pickle_value *side = value_of(m, v[i]);
    if (side->kind != SPD_PICKLE_INTEGER || side->as.integer < 0) return refuse(m, "a tensor without a shape");
    sides[i] = (uint64_t)side->as.integer;
  }
  return SPD_STATUS_OK;
}

static spd_status rebuild_tensor(struct machine *m, const uint32_t *arguments, size_t n) {
  struct spd_pickle_tensor t = {0};
  size_t n_strides = 0;
  if (n != 6 && n != 7) return refuse(m, "a tensor with other arguments");
  const struct spd_pickle_value *where = value_of(m, arguments[0]), *offset = value_of(m, arguments[1]);
  if (where->kind != SPD_PICKLE_STORAGE || offset->kind != SPD_PICKLE_INTEGER || offset->as.integer < 0)
    return refuse(m, "a tensor without a storage");
  t.storage = where->as.storage;
  t.offset = (uint64_t)offset->as.integer;
  SPD_TRY(sides(t.shape, &t.rank, value_of(m, arguments[2]), m));
  SPD_TRY(sides(t.stride, &n_strides, value_of(m, arguments[3]), m));
  if (n_strides != t.rank) return refuse(m, "a tensor without a shape");
  struct spd_pickle *made = m->made;
  SPD_TRY(grow(&made->tensors, made->n_tensors, sizeof t, m));
  made->tensors[made->n_tensors] = t;
  return push_new(m, (struct spd_pickle_value){.kind = SPD_PICKLE_TENSOR, .as.tensor = made->n_tensors++});
}

static spd_status call(struct machine *m) {
  enum { MOST = 7 };
  uint32_t *both = NULL, arguments[MOST] = {0};
  SPD_TRY(top(&both, 2, m));
  const struct spd_pickle_value *callee = value_of(m, both[0]), *tuple = value_of(m, both[1]);
  if (callee->kind != SPD_PICKLE_NAME || tuple->kind != SPD_PICKLE_TUPLE) return refuse(m, "a call of something else");
  const size_t n = items_of(arguments, MOST, tuple, m);
  m->height -= 2;
  switch (names[callee->as.name].meaning) {
    case REBUILD_TENSOR: return rebuild_tensor(m, arguments, n);
    case REBUILD_PARAMETER:
      if (n != 3 || value_of(m, arguments[0])->kind != SPD_PICKLE_TENSOR) return refuse(m, "a parameter without a tensor");
      return push(m, arguments[0]);
    case ORDERED_DICT: return n == 0 ? push_kind(m, SPD_PICKLE_DICT) : refuse(m, "a dictionary with arguments");
    case OPAQUE_CALL: return push_kind(m, SPD_PICKLE_OPAQUE);
    case OPAQUE_TYPE:
    case STORAGE_TYPE: break;
  }
  return refuse(m, "a call of a type");
}

/* Attributes of an object (state_dict() has `_metadata`), or the content of a NumPy array: not kept */
static spd_status build(struct machine *m) {
  uint32_t *both = NULL;
  SPD_TRY(top(&both, 2, m));
  const spd_pickle_kind kind = value_of(m, both[0])->kind;
  if (kind != SPD_PICKLE_DICT && kind != SPD_PICKLE_OPAQUE) return refuse(m, "attributes of something else");
  m->height--;
  return SPD_STATUS_OK;
}

/* ---- memory and texts ---- */

static spd_status memo_put(struct machine *m, uint64_t place) {
  uint32_t *value = NULL;
  SPD_TRY(top(&value, 1, m));
  if (place >= SPD_PICKLE_MOST_VALUES || place > (uint64_t)(m->end - m->start)) return refuse(m, "a place in memory that is too high");
  while (m->n_memo <= place) {
    SPD_TRY(grow(&m->memo, m->n_memo, sizeof *m->memo, m));
    m->memo[m->n_memo++] = 0;
  }
  m->memo[place] = *value + 1;
  return SPD_STATUS_OK;
}

static spd_status memo_get(struct machine *m, uint64_t place) {
  if (place >= m->n_memo || m->memo[place] == 0) return refuse(m, "a place in memory with nothing in it");
  return push(m, m->memo[place] - 1);
}

static spd_status text(struct machine *m) {
  uint64_t n = 0;
  const unsigned char *bytes = NULL;
  SPD_TRY(take_little(&n, 4, m));
  SPD_TRY(take(&bytes, (size_t)n, m));
  if (!spd_text_is_utf8((const char *)bytes, (size_t)n)) return refuse(m, "text that is not UTF-8");
  return push_new(m, (struct spd_pickle_value){.kind = SPD_PICKLE_TEXT, .as.text = {(const char *)bytes, (size_t)n}});
}

/* Two's complement of n bytes */
static spd_status long_integer(struct machine *m) {
  uint64_t n = 0;
  const unsigned char *bytes = NULL;
  SPD_TRY(take_little(&n, 1, m));
  SPD_TRY(take(&bytes, (size_t)n, m));
  if (n > 8) return push_kind(m, SPD_PICKLE_OPAQUE);
  uint64_t bits = spd_get_little(bytes, (size_t)n);
  if (n > 0 && n < 8 && bytes[n - 1] & 0x80) bits |= ~UINT64_C(0) << 8 * n;
  return push_integer(m, (int64_t)bits);
}

/* ---- instructions ---- */

static spd_status step(struct machine *m, unsigned char instruction) {
  uint64_t number = 0;
  uint32_t *values = NULL;
  size_t n = 0;
  switch (instruction) {
    case 0x80: /* PROTO */
      SPD_TRY(take_little(&number, 1, m));
      return number == 2 ? SPD_STATUS_OK : refuse(m, "another protocol than torch.save()'s own, 2,");
    case '(': /* MARK */
      SPD_TRY(grow(&m->marks, m->n_marks, sizeof *m->marks, m));
      m->marks[m->n_marks++] = (uint32_t)m->height;
      return SPD_STATUS_OK;
    case '}': return push_kind(m, SPD_PICKLE_DICT);   /* EMPTY_DICT */
    case ']': return push_kind(m, SPD_PICKLE_LIST);   /* EMPTY_LIST */
    case ')': return push_kind(m, SPD_PICKLE_TUPLE);  /* EMPTY_TUPLE */
    case 'N': return push_kind(m, SPD_PICKLE_OPAQUE); /* NONE */
    case 0x88: return push_integer(m, 1);             /* NEWTRUE */
    case 0x89: return push_integer(m, 0);             /* NEWFALSE */
    case 'K':                                         /* BININT1 */
    case 'M': /* BININT2 */ SPD_TRY(take_little(&number, instruction == 'K' ? 1 : 2, m)); return push_integer(m, (int64_t)number);
    case 'J': /* BININT */ SPD_TRY(take_little(&number, 4, m)); return push_integer(m, (int32_t)(uint32_t)number);
    case 0x8a: return long_integer(m); /* LONG1 */
    case 'G': /* BINFLOAT */ SPD_TRY(take_little(&number, 8, m)); return push_kind(m, SPD_PICKLE_OPAQUE);
    case 'X': return text(m); /* BINUNICODE */
    case 'q':                 /* BINPUT */
    case 'r': /* LONG_BINPUT */ SPD_TRY(take_little(&number, instruction == 'q' ? 1 : 4, m)); return memo_put(m, number);
    case 'h': /* BINGET */
    case 'j': /* LONG_BINGET */ SPD_TRY(take_little(&number, instruction == 'h' ? 1 : 4, m)); return memo_get(m, number);
    case 0x85: /* TUPLE1 */
    case 0x86: /* TUPLE2 */
    case 0x87: /* TUPLE3 */
      n = instruction - 0x84u;
      SPD_TRY(top(&values, n, m));
      m->height -= n;
      return make_tuple(m, values, n);
    case 't': /* TUPLE */ SPD_TRY(pop_mark(&values, &n, m)); return make_tuple(m, values, n);
    case 'a': /* APPEND */
    case 's': /* SETITEM */
      n = instruction == 'a' ? 1 : 2;
      SPD_TRY(top(&values, n, m));
      m->height -= n;
      return add_items(m, instruction == 'a' ? SPD_PICKLE_LIST : SPD_PICKLE_DICT, values, n);
    case 'e': /* APPENDS */
    case 'u': /* SETITEMS */
      SPD_TRY(pop_mark(&values, &n, m));
      return add_items(m, instruction == 'e' ? SPD_PICKLE_LIST : SPD_PICKLE_DICT, values, n);
    case 'c': return name(m);    /* GLOBAL */
    case 'Q': return storage(m); /* BINPERSID */
    case 'R': return call(m);    /* REDUCE */
    case 'b': return build(m);   /* BUILD */
  }
  return spd_fail(m->error, SPD_STATUS_FORMAT, "%s: not weights that torch.save() wrote: its pickle has the instruction 0x%02x at byte %zu",
                  spd_text_tail(m->path), instruction, (size_t)(m->at - m->start) - 1);
}

spd_status spd_pickle_read(struct spd_pickle *pickle, const unsigned char *bytes, size_t n, const char *path, struct spd_error *error) {
  struct machine m = {.made = pickle, .start = bytes, .at = bytes, .end = bytes + n, .path = path, .error = error};
  spd_status status = SPD_STATUS_OK;
  *pickle = (struct spd_pickle){0};
  for (int stopped = 0; status == SPD_STATUS_OK && !stopped;) {
    const unsigned char *instruction = NULL;
    status = take(&instruction, 1, &m);
    if (status != SPD_STATUS_OK) break;
    stopped = *instruction == '.'; /* STOP */
    if (!stopped)
      status = step(&m, *instruction);
    else if (m.height != 1 || m.n_marks != 0 || m.at != m.end)
      status = refuse(&m, "an end too early");
    else
      pickle->root = m.stack[0];
  }
  free(m.stack);
  free(m.marks);
  free(m.memo);
  if (status != SPD_STATUS_OK) spd_pickle_free(pickle);
  return status;
}

void spd_pickle_free(struct spd_pickle *pickle) {
  free(pickle->values);
  free(pickle->items);
  free(pickle->tensors);
  free(pickle->storages);
  *pickle = (struct spd_pickle){0};
}
