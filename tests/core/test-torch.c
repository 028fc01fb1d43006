/* Files of torch.save(): what PyTorch wrote is read, what weights do not need is refused, and no damage to a file does more than that. */
#define _XOPEN_SOURCE 700

#include "check.h"
#include "core/rng.h"
#include "data/pickle.h"
#include "data/torch.h"
#include "data/zip.h"
#include "folder.h"

/* ---- archives ---- */

struct part {
  const char *name;
  const void *bytes;
  size_t n;
};

enum { MOST_PARTS = 64 };
enum { ZIP64 = 1, COMPRESSED = 2, ENCRYPTED = 4, BAD_CHECKSUM = 8, COMMENT = 16, BAD_PLACE = 32, LATIN1 = 64, EXTRA = 128 };

static void put(unsigned char **to, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; i++) *(*to)++ = (unsigned char)(value >> 8 * i);
}

static void put_bytes(unsigned char **to, const void *bytes, size_t n) {
  if (n) memcpy(*to, bytes, n);
  *to += n;
}

/* Writes an archive; the options that spoil an entry are about the last one. */
static void write_archive(const char *name, const struct part *parts, int n, int options) {
  size_t bytes = 1000;
  uint64_t header[MOST_PARTS];
  for (int i = 0; i < n; i++) bytes += parts[i].n + 2 * strlen(parts[i].name) + 200;
  unsigned char *start = check_alloc(bytes), *to = start;
  for (int i = 0; i < n; i++) { /* sizes and the checksum are in the directory only */
    header[i] = (uint64_t)(to - start);
    put(&to, 0x04034b50, 4);
    to += 22;
    put(&to, strlen(parts[i].name), 2);
    put(&to, 5, 2);
    put_bytes(&to, parts[i].name, strlen(parts[i].name));
    put_bytes(&to, "extra", 5);
    put_bytes(&to, parts[i].bytes, parts[i].n);
  }
  const uint64_t directory = (uint64_t)(to - start);
  for (int i = 0; i < n; i++) {
    const int spoiled = i == n - 1 ? options : options & (ZIP64 | EXTRA), wide = options & ZIP64 ? 28 : 0, other = options & EXTRA ? 7 : 0;
    const uint64_t place = header[i] + (spoiled & BAD_PLACE ? 1 : 0);
    put(&to, 0x02014b50, 4);
    put(&to, 0, 4);
    put(&to, spoiled & ENCRYPTED ? 1 : 0, 2);
    put(&to, spoiled & COMPRESSED ? 8 : 0, 2);
    put(&to, 0, 4);
    put(&to, spd_zip_crc(parts[i].bytes, parts[i].n) ^ (spoiled & BAD_CHECKSUM ? 1 : 0), 4);
    put(&to, wide ? 0xffffffffu : parts[i].n, 4);
    put(&to, wide ? 0xffffffffu : parts[i].n, 4);
    put(&to, strlen(parts[i].name), 2);
    put(&to, (uint64_t)(wide + other), 2);
    to += 10;
    put(&to, wide ? 0xffffffffu : place, 4);
    put_bytes(&to, parts[i].name, strlen(parts[i].name));
    if (spoiled & LATIN1) to[-1] = 0xe9;
    if (other) put_bytes(&to, "\x7f\x7f\3\0abc", 7);
    if (wide) {
      put(&to, 1, 2);
      put(&to, 24, 2);
      put(&to, parts[i].n, 8);
      put(&to, parts[i].n, 8);
      put(&to, place, 8);
    }
  }
  const uint64_t end = (uint64_t)(to - start);
  if (options & ZIP64) {
    put(&to, 0x06064b50, 4);
    put(&to, 44, 8);
    to += 20;
    put(&to, (uint64_t)n, 8);
    put(&to, end - directory, 8);
    put(&to, directory, 8);
    put(&to, 0x07064b50, 4);
    put(&to, 0, 4);
    put(&to, end, 8);
    put(&to, 1, 4);
  }
  put(&to, 0x06054b50, 4);
  put(&to, 0, 6);
  put(&to, options & ZIP64 ? 0xffff : (uint64_t)n, 2);
  put(&to, options & ZIP64 ? 0xffffffffu : end - directory, 4);
  put(&to, options & ZIP64 ? 0xffffffffu : directory, 4);
  put(&to, options & COMMENT ? 7 : 0, 2);
  if (options & COMMENT) put_bytes(&to, "PK\5\6abc", 7);
  write_bytes(name, start, (size_t)(to - start));
  free(start);
}

/* Opens a file and reads every tensor; whatever is wrong must come back as a status. */
static spd_status read_all(const char *path, size_t *n_tensors, struct spd_error *error) {
  struct spd_torch *file;
  spd_status status = spd_torch_open(&file, path, error);
  if (status != SPD_STATUS_OK) return file ? SPD_STATUS_INVALID : status;
  if (n_tensors) *n_tensors = file->n_tensors;
  for (size_t i = 0; i < file->n_tensors && status == SPD_STATUS_OK; i++) {
    double *values = check_alloc(8 * file->tensors[i].count);
    status = spd_torch_read(values, file, &file->tensors[i], error);
    free(values);
  }
  spd_torch_close(file);
  return status;
}

/* ---- pickles ---- */

#define TEXT(n, text) "X" n "\0\0\0" text
#define TYPE(type) "ctorch\n" type "\n"
#define PLACE(type, key, n) "(" TEXT("\7", "storage") type TEXT("\1", key) TEXT("\3", "cpu") "K" n "t"
#define STORAGE(type, key, n) PLACE(type, key, n) "Q"
#define ORDERED "ccollections\nOrderedDict\n"
#define REBUILD "ctorch._utils\n_rebuild_tensor_v2\n"
#define TENSOR(storage, offset, shape, stride) REBUILD "(" storage "K" offset shape stride "\x89" ORDERED ")RtR"
#define FLOATS STORAGE(TYPE("FloatStorage"), "0", "\6")
#define SIMPLE TENSOR(FLOATS, "\0", "K\2K\3\x86", "K\3K\1\x86")
#define WITH(value) "\x80\2}" TEXT("\1", "a") value "s."

/* 0, 1, ... 5 */
static const unsigned char numbers[24] = {0, 0, 0,    0,    0, 0, 0x80, 0x3f, 0, 0, 0,    0x40,
                                          0, 0, 0x40, 0x40, 0, 0, 0x80, 0x40, 0, 0, 0xa0, 0x40};

static void write_pickle(const char *name, const void *pickle, size_t n, int options) {
  const struct part parts[] = {{"t/byteorder", "little", 6}, {"t/data/0", numbers, sizeof numbers}, {"t/data.pkl", pickle, n}};
  write_archive(name, parts, 3, options);
}

static void test_pickles(void) {
#define CASE(pickle, tensors, words) \
  { pickle, sizeof pickle - 1, tensors, words }
  static const struct {
    const char *pickle;
    size_t n, tensors;
    const char *words; /* of the refusal; NULL: the file is good */
  } cases[] = {
      CASE(WITH(SIMPLE), 1, NULL), CASE(WITH(TENSOR(FLOATS, "\5", ")", ")")), 1, NULL),
      CASE(WITH(TENSOR(FLOATS, "\6", "K\0\x85", "K\1\x85")), 1, NULL),
      CASE(WITH("ctorch._utils\n_rebuild_parameter\n" SIMPLE "\x88" ORDERED ")R\x87R"), 1, NULL), CASE("\x80\2" SIMPLE ".", 1, NULL),
      CASE("\x80\2]q\0(" SIMPLE "q\1h\1}" TEXT("\1", "b") "h\1sNG\0\0\0\0\0\0\0\0J\xff\xff\xff\xffM\1\1\x8a\2\0\x80\x8a\0e.", 3, NULL),
      CASE(WITH(ORDERED ")R(K\7" SIMPLE TEXT("\1", "m") "K\1u}" TEXT("\1", "x") "K\1sb"), 1, NULL), CASE("\x80\2}.", 0, NULL),
      /* an array of NumPy's is followed, not kept */
      CASE(WITH("cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" TEXT("\1", "b") "\x87R(K\1K\0\x85" TEXT("\2",
                                                                                                                         "\xc3\xa9") "tb"),
           0, NULL),

      CASE(WITH("cposix\nsystem\n" TEXT("\2", "ls") "\x85R"), 0, "asks for 'system' of 'posix'"),
      CASE(WITH("cbuiltins\neval\n" TEXT("\1", "1") "\x85R"), 0, "asks for 'eval' of 'builtins'"),
      CASE(WITH("cbuiltins\ngetattr\n"), 0, "nothing of it was run"),
      CASE(WITH("ctorch.storage\nUntypedStorage\n"), 0, "asks for 'UntypedStorage'"),
      CASE(WITH("ctorch\n_utils._rebuild_tensor_v2\n"), 0, "asks for"), CASE(WITH("ccollections \nOrderedDict\n)R"), 0, "asks for"),
      CASE(WITH("(cposix\nsystem\ni"), 0, "asks for"), CASE(WITH("(iposix\nsystem\n"), 0, "the instruction 0x69"), /* INST */
      CASE(WITH("(o"), 0, "the instruction 0x6f"),                                                                 /* OBJ */
      CASE(WITH(ORDERED ")\x81"), 0, "the instruction 0x81"),                                                      /* NEWOBJ */
      CASE(WITH("\x82\1"), 0, "the instruction 0x82"),                                                             /* EXT1 */
      CASE(WITH("P0\n"), 0, "the instruction 0x50"),                                                               /* PERSID */
      CASE(WITH("\x8c\1b"), 0, "the instruction 0x8c"),                                                            /* SHORT_BINUNICODE */
      CASE(WITH("\x93"), 0, "the instruction 0x93"),                                                               /* STACK_GLOBAL */
      CASE("\x80\4}.", 0, "another protocol"), CASE("", 0, "an end too early"), CASE("\x80\2", 0, "an end too early"),
      CASE("\x80\2.", 0, "an end too early"), CASE("\x80\2}}.", 0, "an end too early"), CASE("\x80\2}(.", 0, "an end too early"),
      CASE("\x80\2}.}", 0, "an end too early"),
      CASE("\x80\2X\xff\xff\xff\xff"
           "abc.",
           0, "an end too early"),
      CASE("\x80\2\x8a\x50"
           "abc.",
           0, "an end too early"),
      CASE("\x80\2"
           "ccollections\nOrderedDict",
           0, "a name without an end"),
      CASE("\x80\2"
           "ccollections\0\nOrderedDict\n.",
           0, "a name without an end"),
      CASE(WITH(TEXT("\2", "\xc3\x28")), 0, "not UTF-8"), CASE("\x80\2h\0.", 0, "nothing in it"),
      CASE("\x80\2}q\5h\4.", 0, "nothing in it"), CASE("\x80\2}r\xff\xff\xff\x7f.", 0, "too high"),
      CASE("\x80\2q\0}.", 0, "too few values"), CASE("\x80\2K\1\x86.", 0, "too few values"), CASE("\x80\2t.", 0, "too few values"),
      CASE("\x80\2u.", 0, "too few values"), CASE("\x80\2}K\1s.", 0, "too few values"), CASE("\x80\2}(K\1u.", 0, "items of something else"),
      CASE("\x80\2](K\1K\2u.", 0, "items of something else"),
      CASE("\x80\2}K\1"
           "a.",
           0, "items of something else"),
      CASE("\x80\2)K\1"
           "a.",
           0, "items of something else"),
      CASE("\x80\2(K\1e.", 0, "too few values"), CASE(WITH("K\1)R"), 0, "a call of something else"),
      CASE(WITH(ORDERED "K\1R"), 0, "a call of something else"), CASE(WITH(ORDERED "K\1\x85R"), 0, "a dictionary with arguments"),
      CASE(WITH(TYPE("FloatStorage") ")R"), 0, "a call of a type"), CASE(WITH("cnumpy\nndarray\n)R"), 0, "a call of a type"),
      CASE(WITH("K\1}b"), 0, "attributes of something else"), CASE(WITH(SIMPLE "}b"), 0, "attributes of something else"),
      CASE(WITH("K\1Q"), 0, "a storage without its place"), CASE(WITH(")Q"), 0, "a storage without its place"),
      CASE(WITH(STORAGE(ORDERED, "0", "\6")), 0, "a storage without its place"),
      CASE(WITH(STORAGE("N", "0", "\6")), 0, "a storage without its place"), CASE(WITH(REBUILD ")R"), 0, "a tensor with other arguments"),
      CASE(WITH(TENSOR("N", "\0", ")", ")")), 0, "a tensor without a storage"),
      CASE(WITH(TENSOR(FLOATS, "\0", "N", ")")), 0, "a tensor without a shape"),
      CASE(WITH(TENSOR(FLOATS, "\0", "K\2\x85", ")")), 0, "a tensor without a shape"),
      CASE(WITH(TENSOR(FLOATS, "\0", "J\xff\xff\xff\xff\x85", "K\1\x85")), 0, "a tensor without a shape"),
      CASE(WITH(TENSOR(FLOATS, "\0", "(K\1K\1K\1K\1K\1K\1K\1K\1K\1t", "(K\1K\1K\1K\1K\1K\1K\1K\1K\1t")), 0, "a tensor without a shape"),
      CASE(WITH("ctorch._utils\n_rebuild_parameter\nN\x88)\x87R"), 0, "a parameter without a tensor"),

      CASE(WITH(TENSOR(FLOATS, "\6", ")", ")")), 0, "tensor 'a' is larger than its storage"),
      CASE(WITH(TENSOR(FLOATS, "\1", "K\2K\3\x86", "K\3K\1\x86")), 0, "tensor 'a' is larger"),
      CASE(WITH(TENSOR(FLOATS, "\0", "M\xe8\3\x85", "K\0\x85")), 0, "tensor 'a' is larger"),
      CASE(WITH(TENSOR(FLOATS, "\0", "\x8a\x8\0\0\0\0\0\0\0\x40K\2\x86", "K\0K\1\x86")), 0, "tensor 'a' has a shape that overflows"),
      CASE(WITH(TENSOR(FLOATS, "\0", "K\2\x85", "\x8a\x8\xff\xff\xff\xff\xff\xff\xff\x0f\x85")), 0, "tensor 'a' is larger"),
      CASE(WITH(TENSOR(STORAGE(TYPE("FloatStorage"), "1", "\6"), "\0", ")", ")")), 0, "tensor 'a' has no numbers in the file"),
      CASE(WITH(TENSOR(STORAGE(TYPE("FloatStorage"), "0", "\7"), "\0", ")", ")")), 0, "tensor 'a' has another number of bytes"),
      CASE(WITH(TENSOR(STORAGE(TYPE("LongStorage"), "0", "\6"), "\0", ")", ")")), 0, "tensor 'a' has another number of bytes"),
      CASE(WITH(TENSOR(STORAGE(TYPE("FloatStorage"), "\0", "\6"), "\0", ")", ")")), 0, "a storage without a name"),
      CASE("\x80\2}(" TEXT("\1", "a") SIMPLE TEXT("\1", "a") SIMPLE "u.", 0, "holds tensor 'a' twice"),
      CASE("\x80\2}" TEXT("\1", "\0") SIMPLE "s.", 0, "too long a name"),
      CASE("\x80\2]q\0h\0"
           "a.",
           0, "lies too deep"), /* a list that holds itself */
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    size_t n_tensors = 99;
    write_pickle("pickle", cases[i].pickle, cases[i].n, 0);
    if (cases[i].words) {
      CHECK_STATUS(read_all(in_folder("pickle"), NULL, error), SPD_STATUS_FORMAT, cases[i].words);
      CHECK_STATUS(read_all(in_folder("pickle"), NULL, error), SPD_STATUS_FORMAT, "/pickle: ");
    } else {
      MUST(read_all(in_folder("pickle"), &n_tensors, error));
      CHECK(n_tensors == cases[i].tensors, "case %zu: %zu tensors", i, n_tensors);
    }
  }
#undef CASE
}

/* Names, order of elements, types, byte order */
static void test_values(void) {
  static const char pickle[] = "\x80\2}" TEXT("\1", "m") "](" TENSOR(FLOATS, "\0", "K\3K\2\x86", "K\1K\3\x86")
      TENSOR(FLOATS, "\2", "K\2\x85", "K\3\x85") TENSOR(STORAGE(TYPE("ShortStorage"), "1", "\3"), "\1", "K\2\x85", "K\1\x85") "es.";
  static const double want[3][6] = {{0, 3, 1, 4, 2, 5}, {2, 5}, {-2, 258}};
  static const char *const names[3] = {"m.0", "m.1", "m.2"};
  static const unsigned char shorts[] = {1, 0, 0xfe, 0xff, 2, 1};
  const struct check_tolerance exact = {"exact", 0, 0};
  for (int is_big = 0; is_big < 2; is_big++) {
    unsigned char turned[sizeof numbers], turned_shorts[6];
    for (size_t i = 0; i < sizeof numbers; i++) turned[i] = numbers[is_big ? i ^ 3 : i];
    for (size_t i = 0; i < 6; i++) turned_shorts[i] = shorts[is_big ? i ^ 1 : i];
    const struct part parts[] = {{"x/data.pkl", pickle, sizeof pickle - 1},
                                 {"x/data/0", turned, sizeof turned},
                                 {"x/data/1", turned_shorts, 6},
                                 {"x/byteorder", is_big ? "big" : "little", is_big ? 3 : 6}};
    write_archive("values", parts, is_big ? 4 : 3, 0); /* without a byte order it is little */
    struct spd_torch *file;
    MUST(spd_torch_open(&file, in_folder("values"), error));
    CHECK(file->n_tensors == 3, "%zu tensors", file->n_tensors);
    for (size_t i = 0; i < 3; i++) {
      double got[6];
      MUST(spd_torch_read(got, file, &file->tensors[i], error));
      CHECK(strcmp(file->tensors[i].name, names[i]) == 0, "tensor %zu is called %s", i, file->tensors[i].name);
      CHECK_CLOSE(names[i], got, want[i], file->tensors[i].count, &exact);
    }
    spd_torch_close(file);
  }
  spd_torch_close(NULL);
}

static void test_archives(void) {
  static const char good[] = WITH(SIMPLE);
  static const int fine[] = {0, ZIP64, COMMENT, EXTRA, ZIP64 | COMMENT | EXTRA};
  static const struct {
    int option;
    const char *words;
  } spoiled[] = {{COMPRESSED, "'t/data.pkl' is compressed"},
                 {ENCRYPTED, "'t/data.pkl' is compressed"},
                 {BAD_CHECKSUM, "the checksum of 't/data.pkl' does not fit"},
                 {BAD_PLACE, "not where its directory says"},
                 {LATIN1, "not UTF-8"}};
  for (size_t i = 0; i < sizeof fine / sizeof fine[0]; i++) {
    write_pickle("archive", good, sizeof good - 1, fine[i]);
    MUST(read_all(in_folder("archive"), NULL, error));
    CHECK(spd_torch_is(in_folder("archive")), "option %d is not recognised", fine[i]);
  }
  for (size_t i = 0; i < sizeof spoiled / sizeof spoiled[0]; i++) {
    write_pickle("archive", good, sizeof good - 1, spoiled[i].option);
    CHECK_STATUS(read_all(in_folder("archive"), NULL, error), SPD_STATUS_FORMAT, spoiled[i].words);
  }
  const struct part twice[] = {{"t/data.pkl", good, sizeof good - 1}, {"t/data.pkl", good, sizeof good - 1}};
  write_archive("archive", twice, 2, 0);
  CHECK_STATUS(read_all(in_folder("archive"), NULL, error), SPD_STATUS_FORMAT, "holds 't/data.pkl' twice");
  const struct part two[] = {{"t/data.pkl", good, sizeof good - 1}, {"u/data.pkl", good, sizeof good - 1}};
  write_archive("archive", two, 2, 0);
  CHECK_STATUS(read_all(in_folder("archive"), NULL, error), SPD_STATUS_FORMAT, "more than one data.pkl");
  const struct part none[] = {{"t/u/data.pkl", good, sizeof good - 1}};
  write_archive("archive", none, 1, 0);
  CHECK_STATUS(read_all(in_folder("archive"), NULL, error), SPD_STATUS_FORMAT, "it has no data.pkl");
  write_archive("archive", none, 0, 0);
  CHECK_STATUS(read_all(in_folder("archive"), NULL, error), SPD_STATUS_FORMAT, "it has no data.pkl");
  const struct part order[] = {{"t/byteorder", "middle", 6}, {"t/data.pkl", good, sizeof good - 1}};
  write_archive("archive", order, 2, 0);
  CHECK_STATUS(read_all(in_folder("archive"), NULL, error), SPD_STATUS_FORMAT, "neither little nor big");

  write_bytes("empty", "", 0);
  CHECK_STATUS(read_all(in_folder("empty"), NULL, error), SPD_STATUS_FORMAT, "too short");
  write_bytes("old", "\x80\2\x8a\12l\xfc\x9c\x46\xf9 j\xa8P\x19.", 15);
  CHECK(spd_torch_is(in_folder("old")), "an old file is not recognised");
  CHECK_STATUS(read_all(in_folder("old"), NULL, error), SPD_STATUS_FORMAT, "before PyTorch 1.6");
  CHECK(!spd_torch_is(in_folder("empty")) && !spd_torch_is(in_folder("absent")) && !spd_torch_is(folder), "recognises what is none");
  CHECK_STATUS(read_all(in_folder("absent"), NULL, error), SPD_STATUS_IO, "absent: cannot open: No such file");
  CHECK_STATUS(read_all(folder, NULL, error), SPD_STATUS_IO, "not a regular file");
  if (mkfifo(in_folder("pipe"), 0600) == 0) {
    CHECK(!spd_torch_is(in_folder("pipe")), "a pipe is recognised");
    CHECK_STATUS(read_all(in_folder("pipe"), NULL, error), SPD_STATUS_IO, "not a regular file");
  }
  CHECK(spd_zip_crc("123456789", 9) == 0xcbf43926u, "CRC-32 is %08x", (unsigned)spd_zip_crc("123456789", 9));
}

/* Lists that hold the list before them 30 times: 30^6 ways to the innermost one, in a pickle of 400 bytes. The search ends in an error. */
static void test_many_ways(void) {
  unsigned char pickle[1000], *to = pickle;
  put_bytes(&to, "\x80\2(]q\0", 6);
  for (unsigned char level = 1; level < 7; level++) {
    const unsigned char before[2] = {'h', level - 1}, end[3] = {'e', 'q', level};
    put_bytes(&to, "](", 2);
    for (int i = 0; i < 30; i++) put_bytes(&to, before, 2);
    put_bytes(&to, end, 3);
  }
  put_bytes(&to, "t.", 2);
  write_pickle("ways", pickle, (size_t)(to - pickle), 0);
  CHECK_STATUS(read_all(in_folder("ways"), NULL, error), SPD_STATUS_FORMAT, "one of too many");
}

/* ---- files that PyTorch wrote, and damage to them ---- */

static const char *const written[] = {"sdss-I", "sdss-II", "desi", "five", "flow"};

static const char *written_path(int i) {
  static char path[PATH];
  snprintf(path, sizeof path, "tests/testthat/torch/%s.pt", written[i]);
  return path;
}

static void test_written(void) {
  static const size_t tensors[] = {31, 32, 26, 5 * 32 + 3 * 29, 36}; /* of five models one has an optimizer's state */
  for (int i = 0; i < 5; i++) {
    size_t n = 0;
    MUST(read_all(written_path(i), &n, error));
    CHECK(n == tensors[i], "%s: %zu tensors", written[i], n);
  }
}

/* The archive's parts, data.pkl last; names and bytes are allocated. */
static int read_parts(struct part parts[MOST_PARTS], const char *path) {
  struct spd_zip zip;
  MUST(spd_zip_open(&zip, path, error));
  const int n = (int)zip.n_entries;
  CHECK(n <= MOST_PARTS, "%s has %d parts", path, n);
  for (int i = 0; i < n && i < MOST_PARTS; i++) {
    void *bytes = check_alloc((size_t)zip.entries[i].bytes);
    MUST(spd_zip_read(bytes, &zip, &zip.entries[i], error));
    char *name = check_alloc(strlen(zip.entries[i].name));
    strcpy(name, zip.entries[i].name);
    parts[i] = (struct part){name, bytes, (size_t)zip.entries[i].bytes};
  }
  spd_zip_close(&zip);
  for (int i = 0; i < n; i++)
    if (strstr(parts[i].name, "data.pkl")) {
      const struct part pickle = parts[i];
      parts[i] = parts[n - 1];
      parts[n - 1] = pickle;
      break;
    }
  return n;
}

/* One change, after the bits */
static void damage_bytes(unsigned char *bad, size_t *n, uint64_t bits) {
  static const unsigned char instructions[] = "\x80(}])NKMJ\x8aGXqrhj\x85\x86\x87taseucQRb.\x88\x89\xff\0\1\2";
  const size_t length = *n, at = spd_below(spd_mix64(bits + 1), length), from = spd_below(spd_mix64(bits + 2), length);
  const size_t most = length - (at > from ? at : from), piece = spd_below(spd_mix64(bits + 3), most + 1) % 200;
  switch (bits % 5) {
    case 0: bad[at] ^= (unsigned char)(1u << (bits >> 8 & 7)); break;
    case 1: bad[at] = instructions[spd_below(spd_mix64(bits + 4), sizeof instructions - 1)]; break;
    case 2: memmove(bad + at, bad + from, piece); break;
    case 3: memset(bad + at, bits >> 8 & 1 ? 0xff : 0, piece % 9); break;
    default: /* left out */ memmove(bad + at, bad + at + piece % 9, length - at - piece % 9); *n -= piece % 9;
  }
}

/* Thousands of damaged files: each is read or refused, and the sanitizers have nothing to say. Half of the changes are to the pickle, with
 * a new checksum; the others to the file, in half of the cases to its end, where the directory is. */
static void test_damage(void) {
  enum { TRIES = 10000, DIRECTORY = 3000 };
  size_t n = 0, accepted = 0, refused = 0, other = 0;
  struct part parts[MOST_PARTS];
  const int n_parts = read_parts(parts, written_path(2));
  const struct part pickle = parts[n_parts - 1];
  unsigned char *good = read_bytes(written_path(2), &n), *bad = check_alloc(n);
  for (uint64_t i = 0; i < TRIES; i++) {
    const uint64_t bits = spd_mix64(i);
    const int changes = 1 + (int)(bits >> 50 & 3), is_pickle = bits >> 60 & 1;
    const size_t start = is_pickle || bits >> 59 & 1 ? 0 : n - DIRECTORY;
    size_t length = is_pickle ? pickle.n : n - start;
    memcpy(bad, is_pickle ? pickle.bytes : good, start + length);
    for (int k = 0; k < changes; k++) damage_bytes(bad + start, &length, spd_mix64(bits + 10 * (uint64_t)k));
    if (is_pickle) {
      parts[n_parts - 1] = (struct part){pickle.name, bad, length};
      write_archive("damage", parts, n_parts, 0);
    } else {
      const int is_cut = (bits >> 40 & 7) == 0;
      write_bytes("damage", bad, is_cut ? spd_below(spd_mix64(bits), n) : start + length);
    }
    const spd_status status = read_all(in_folder("damage"), NULL, NULL);
    accepted += status == SPD_STATUS_OK;
    refused += status == SPD_STATUS_FORMAT;
    other += status != SPD_STATUS_OK && status != SPD_STATUS_FORMAT;
  }
  CHECK(other == 0 && accepted + refused == TRIES, "%zu accepted, %zu refused, %zu other", accepted, refused, other);
  CHECK(refused > TRIES / 2 && accepted > TRIES / 50, "%zu of %d damaged files were refused", refused, (int)TRIES);
  parts[n_parts - 1] = pickle;
  for (int i = 0; i < n_parts; i++) {
    free((char *)parts[i].name);
    free((void *)parts[i].bytes);
  }
  free(good);
  free(bad);
}

int main(void) {
  make_folder("test-torch");
  test_pickles();
  test_values();
  test_archives();
  test_many_ways();
  test_written();
  test_damage();
  remove_folder();
  return check_end();
}
