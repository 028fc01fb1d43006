/* safetensors files: what is written reads back, what is not the format is refused, and no damage to a file does more than
 * that.
 *
 */
#define _XOPEN_SOURCE 700

#include <errno.h>
#include <signal.h>
#include <sys/resource.h>

#include "check.h"
#include "core/rng.h"
#include "data/safetensors.h"
#include "folder.h"

static int count_files(void) {
  int n = 0;
  DIR *dir = opendir(folder);
  for (struct dirent *entry; (entry = readdir(dir));) n += entry->d_name[0] != '.';
  closedir(dir);
  return n;
}

/* Prefix, header and n data bytes. */
static void write_header(const char *name, const char *header, size_t n) {
  size_t length = strlen(header);
  unsigned char *bytes = check_alloc(8 + length + n);
  for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)((uint64_t)length >> 8 * i);
  memcpy(bytes + 8, header, length);
  for (size_t i = 0; i < n; i++) bytes[8 + length + i] = (unsigned char)i;
  write_bytes(name, bytes, 8 + length + n);
  free(bytes);
}

/* Opens and reads everything by every way; whatever is wrong must come back as a status. */
static spd_status read_all(const char *path, struct spd_error *error) {
  struct spd_safetensors *file;
  spd_status status = spd_safetensors_open(&file, path, error);
  if (status != SPD_STATUS_OK) return file ? SPD_STATUS_INVALID : status;
  for (size_t i = 0; i < file->n_metadata; i++)
    if (!spd_safetensors_metadata(file, file->metadata[i].key)) status = SPD_STATUS_INVALID;
  for (size_t i = 0; i < file->n_tensors && status == SPD_STATUS_OK; i++) {
    const struct spd_safetensors_tensor *t = &file->tensors[i];
    void *values = check_alloc(8 * t->count);
    if (spd_safetensors_find(file, t->name) != t) status = SPD_STATUS_INVALID;
    if (status == SPD_STATUS_OK) status = spd_safetensors_read(values, file, t, error);
    if (status == SPD_STATUS_OK) status = spd_safetensors_read_double(values, file, t, error);
    if (status == SPD_STATUS_OK && t->dtype <= SPD_DTYPE_BF16) status = spd_safetensors_read_float(values, file, t, error);
    free(values);
  }
  spd_safetensors_close(file);
  return status;
}

/* A file with every type, an empty tensor, a scalar, and names and values that need escapes. */
static void write_sample(const char *path, int overwrite) {
  static const double f64[] = {0.1, -1e300, 0};
  static const float f32[] = {1.5f, -0.0f, 3e38f, 1e-45f, 7, 8};
  static const uint16_t f16[] = {0x3c00, 0xc000, 0x0001, 0x7c00}, bf16[] = {0x3f80, 0xc000};
  static const int64_t i64[] = {INT64_MIN, -1, 1};
  static const int32_t i32[] = {INT32_MIN, 5};
  static const int16_t i16[] = {-2, 2};
  static const int8_t i8[] = {-128};
  static const uint8_t u8[] = {255, 1, 0}, flags[] = {1, 0};
  const struct spd_safetensors_item items[] = {
      {"bool", SPD_DTYPE_BOOL, 1, {2}, flags}, {"f32", SPD_DTYPE_F32, 3, {3, 1, 2}, f32}, {"u8", SPD_DTYPE_U8, 1, {3}, u8},
      {"f64", SPD_DTYPE_F64, 1, {3}, f64},     {"f16", SPD_DTYPE_F16, 2, {2, 2}, f16},    {"bf16", SPD_DTYPE_BF16, 1, {2}, bf16},
      {"i64", SPD_DTYPE_I64, 1, {3}, i64},     {"i32", SPD_DTYPE_I32, 1, {2}, i32},       {"i16", SPD_DTYPE_I16, 1, {2}, i16},
      {"i8", SPD_DTYPE_I8, 0, {0}, i8},        {"empty", SPD_DTYPE_F32, 2, {0, 7}, NULL}, {"\xc3\xa9\"\\\n", SPD_DTYPE_U8, 0, {0}, u8},
  };
  const struct spd_safetensors_pair metadata[] = {{"format", "test"}, {"quo\"te\t", "line\nbreak \\ \xf0\x9f\x94\xad \x01"}, {"", ""}};
  MUST(spd_safetensors_write(path, items, sizeof items / sizeof items[0], metadata, 3, overwrite, error));
}

static void check_values(const struct spd_safetensors *file, const char *name, const double *want, size_t count) {
  static const struct check_tolerance exact = {"exact", 0, 0};
  double got[8];
  const struct spd_safetensors_tensor *t = spd_safetensors_find(file, name);
  CHECK(t && t->count == count, "%s: missing or of another size", name);
  if (!t || t->count != count) return;
  MUST(spd_safetensors_read_double(got, file, t, error));
  for (size_t i = 0; i < count; i++) /* infinities have no difference */
    if (isinf(want[i]) && got[i] == want[i]) got[i] = 0, ((double *)want)[i] = 0;
  CHECK_CLOSE(name, got, want, count, &exact);
}

static void test_round_trip(void) {
  struct spd_safetensors *file;
  write_sample(in_folder("sample"), 0);
  MUST(spd_safetensors_open(&file, in_folder("sample"), error));
  CHECK(file->n_tensors == 12 && file->n_metadata == 3, "%zu tensors, %zu metadata", file->n_tensors, file->n_metadata);
  CHECK(file->data % 8 == 0, "data begins at %llu", (unsigned long long)file->data);
  for (size_t i = 0; i < file->n_tensors; i++)
    CHECK(file->tensors[i].begin % spd_dtype_size(file->tensors[i].dtype) == 0, "%s is not aligned", file->tensors[i].name);
  const char *value = spd_safetensors_metadata(file, "quo\"te\t");
  CHECK(value && strcmp(value, "line\nbreak \\ \xf0\x9f\x94\xad \x01") == 0, "metadata came back as %s", value ? value : "nothing");
  CHECK(spd_safetensors_metadata(file, "absent") == NULL && spd_safetensors_find(file, "absent") == NULL, "found what is absent");

  double f64[] = {0.1, -1e300, 0}, f32[] = {1.5, -0.0, 3e38f, 1e-45f, 7, 8}, f16[] = {1, -2, 0x1p-24, INFINITY}, bf16[] = {1, -2};
  double i64[] = {-0x1p63, -1, 1}, i32[] = {-0x1p31, 5}, i16[] = {-2, 2}, i8[] = {-128}, u8[] = {255, 1, 0}, flags[] = {1, 0};
  check_values(file, "f64", f64, 3);
  check_values(file, "f32", f32, 6);
  check_values(file, "f16", f16, 4);
  check_values(file, "bf16", bf16, 2);
  check_values(file, "i64", i64, 3);
  check_values(file, "i32", i32, 2);
  check_values(file, "i16", i16, 2);
  check_values(file, "i8", i8, 1);
  check_values(file, "u8", u8, 3);
  check_values(file, "bool", flags, 2);
  check_values(file, "empty", NULL, 0);
  check_values(file, "\xc3\xa9\"\\\n", u8, 1);

  float floats[6];
  int64_t integers[3];
  const struct spd_safetensors_tensor *t = spd_safetensors_find(file, "f32");
  CHECK(t->rank == 3 && t->shape[0] == 3 && t->shape[1] == 1 && t->shape[2] == 2, "f32 has another shape");
  MUST(spd_safetensors_read_float(floats, file, spd_safetensors_find(file, "f16"), error));
  CHECK(floats[1] == -2 && floats[2] == 0x1p-24f && isinf(floats[3]), "f16 as float");
  MUST(spd_safetensors_read_float(floats, file, t, error));
  CHECK(floats[3] == 1e-45f && signbit(floats[1]), "f32 as float");
  MUST(spd_safetensors_read(integers, file, spd_safetensors_find(file, "i64"), error));
  CHECK(integers[0] == INT64_MIN, "i64 as it is");
  CHECK_STATUS(spd_safetensors_read_float(floats, file, spd_safetensors_find(file, "i32"), error), SPD_STATUS_FORMAT, "'i32'");
  spd_safetensors_close(file);
  spd_safetensors_close(NULL);
}

/* More elements than one chunk of the conversion, and every half-precision number. */
static void test_half(void) {
  enum { N = 65536 };
  uint16_t *bits = check_alloc(N * sizeof *bits);
  float *values = check_alloc(N * sizeof *values);
  for (size_t i = 0; i < N; i++) bits[i] = (uint16_t)i;
  struct spd_safetensors_item item = {"half", SPD_DTYPE_F16, 1, {N}, bits};
  struct spd_safetensors *file;
  MUST(spd_safetensors_write(in_folder("half"), &item, 1, NULL, 0, 0, error));
  MUST(spd_safetensors_open(&file, in_folder("half"), error));
  MUST(spd_safetensors_read_float(values, file, &file->tensors[0], error));
  size_t wrong = 0;
  for (size_t i = 0; i < N; i++) {
    int sign = i >> 15, exponent = (int)(i >> 10 & 31), fraction = (int)(i & 1023);
    double size = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
    if (exponent == 31) size = fraction ? NAN : INFINITY;
    double want = sign ? -size : size;
    wrong += isnan(want) ? !isnan(values[i]) : (double)values[i] != want || (signbit(values[i]) != 0) != sign;
  }
  CHECK(wrong == 0, "%zu half-precision numbers are wrong", wrong);
  spd_safetensors_close(file);
  free(values);
  free(bits);
}

static void test_headers(void) {
#define TENSOR "{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}"
  static const struct {
    const char *header;
    size_t data;
    const char *words; /* of the refusal; NULL: the file is good */
  } cases[] = {
      {"{}", 0, NULL},
      {"{\"a\":" TENSOR "}", 4, NULL},
      {"{\"a\":" TENSOR "}    ", 4, NULL},
      {"{ \"a\" :\t{\n\"shape\": [ 4 ] , \"data_offsets\":[0 ,4], \"dtype\":\"U8\" }\r}", 4, NULL},
      {"{\"a\\u00e9\\ud83d\\ude00\\/\":" TENSOR "}", 4, NULL},
      {"{\"__metadata__\":{}}", 0, NULL},
      {"{\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[3,4]},\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":["
       "0,3]}}",
       4, NULL},
      {"{\"e\":{\"dtype\":\"F32\",\"shape\":[0,18446744073],\"data_offsets\":[4,4]},\"a\":" TENSOR "}", 4, NULL},

      {"[]", 0, "expected '{'"},
      {" {}", 0, "expected '{'"},
      {"{\"a\":" TENSOR "", 4, "expected '}'"},
      {"{\"a\":" TENSOR ",}", 4, "expected a string"},
      {"{\"a\":" TENSOR "} x", 4, "behind the closing brace"},
      {"{\"a\":" TENSOR "}{}", 4, "behind the closing brace"},
      {"{\"a\":" TENSOR ",\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[4,5]}}", 5, "tensor 'a' stands in the header twice"},
      {"{\"a\":" TENSOR ",\"\\u0061\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[4,5]}}", 5, "tensor 'a' stands"},
      {"{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", 0, "metadata 'k' stands in the header twice"},
      {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "second __metadata__"},
      {"{\"__metadata__\":{\"k\":1}}", 0, "expected a string"},
      {"{\"__metadata__\":{\"k\":null}}", 0, "expected a string"},
      {"{\"a\":[]}", 0, "expected '{'"},
      {"{\"a\":{}}", 0, "expected a string"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4]}}", 4, "tensor 'a' lacks"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0]}}", 4, "tensor 'a' lacks"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4,8]}}", 4, "array that is too long"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1, "array that is too long"},
      {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4, "tensor 'a' has one field twice"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4],\"x\":1}}", 4, "tensor 'a' has a field other"},
      {"{\"a\":{\"dtype\":\"C64\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4, "tensor 'a' has the unknown data type 'C64'"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[-4],\"data_offsets\":[0,4]}}", 4, "expected an unsigned integer"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4.0],\"data_offsets\":[0,4]}}", 4, "expected an unsigned integer"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4e0],\"data_offsets\":[0,4]}}", 4, "expected an unsigned integer"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[04],\"data_offsets\":[0,4]}}", 4, "leading zero"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[18446744073709551616],\"data_offsets\":[0,4]}}", 4, "beyond 64 bits"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[18446744073709551615],\"data_offsets\":[0,4]}}", 4, "tensor 'a' has a shape that overflows"},
      {"{\"a\":{\"dtype\":\"F64\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0, "tensor 'a' has a shape that overflows"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4, "tensor 'a' has data_offsets that do not fit"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,0]}}", 4, "tensor 'a' ends before it begins"},
      {"{\"a\":" TENSOR "}", 3, "tensor 'a' reaches past the end"},
      {"{\"a\":" TENSOR "}", 5, "1 bytes follow the last tensor"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[1,5]}}", 5, "tensor 'a' leaves a hole"},
      {"{\"a\":" TENSOR ",\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[2,6]}}", 6, "tensor 'b' overlaps"},
      {"{\"a\":" TENSOR ",\"b\":" TENSOR "}", 4, "tensor 'b' overlaps"},
      {"{\"a\x01\":" TENSOR "}", 4, "control character"},
      {"{\"a\xff\":" TENSOR "}", 4, "not UTF-8"},
      {"{\"a\xc0\xaf\":" TENSOR "}", 4, "not UTF-8"},
      {"{\"a\xed\xa0\x80\":" TENSOR "}", 4, "not UTF-8"},
      {"{\"a\xf4\x90\x80\x80\":" TENSOR "}", 4, "not UTF-8"},
      {"{\"a\\q\":" TENSOR "}", 4, "unknown escape"},
      {"{\"a\\u12g4\":" TENSOR "}", 4, "broken \\u escape"},
      {"{\"a\\u0000\":" TENSOR "}", 4, "NUL"},
      {"{\"a\\ud800\":" TENSOR "}", 4, "lone surrogate"},
      {"{\"a\\udc00\":" TENSOR "}", 4, "lone surrogate"},
      {"{\"a\\ud800\\u0041\":" TENSOR "}", 4, "lone surrogate"},
      {"{\"a", 0, "without an end"},
      {"{\"a\\", 0, "without an end"},
      {"{\"a\\u00", 0, "broken \\u escape"},
      {"{\"a\xc3", 0, "not UTF-8"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    write_header("header", cases[i].header, cases[i].data);
    if (cases[i].words) {
      CHECK_STATUS(read_all(in_folder("header"), error), SPD_STATUS_FORMAT, cases[i].words);
      CHECK_STATUS(read_all(in_folder("header"), error), SPD_STATUS_FORMAT, "/header: ");
    } else {
      MUST(read_all(in_folder("header"), error));
      check_passed++;
    }
  }
#undef TENSOR
}

static void test_foreign_files(void) {
  static const unsigned char huge[16] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, '{', '}'};
  static const unsigned char longer[16] = {200, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
  write_bytes("empty", "", 0);
  CHECK_STATUS(read_all(in_folder("empty"), error), SPD_STATUS_FORMAT, "only 0 bytes long");
  write_bytes("huge", huge, 16);
  CHECK_STATUS(read_all(in_folder("huge"), error), SPD_STATUS_FORMAT, "is not possible");
  write_bytes("longer", longer, 16);
  CHECK_STATUS(read_all(in_folder("longer"), error), SPD_STATUS_FORMAT, "cut short");
  write_bytes("fits", "SIMPLE  =                    T / a FITS file", 44);
  CHECK_STATUS(read_all(in_folder("fits"), error), SPD_STATUS_FORMAT, "not a safetensors file");
  CHECK_STATUS(read_all(in_folder("absent"), error), SPD_STATUS_IO, "absent: cannot open: No such file");
  CHECK_STATUS(read_all(folder, error), SPD_STATUS_IO, "not a regular file");
  if (mkfifo(in_folder("pipe"), 0600) == 0) CHECK_STATUS(read_all(in_folder("pipe"), error), SPD_STATUS_IO, "not a regular file");

  char name[700], header[900]; /* a message has room for both ends of what is too long */
  memset(name, 'n', sizeof name);
  name[699] = 0;
  snprintf(header, sizeof header, "{\"%s\":{\"dtype\":\"U8\"}}", name);
  write_header("long-name", header, 0);
  CHECK_STATUS(read_all(in_folder("long-name"), error), SPD_STATUS_FORMAT, "nnn...' lacks");
}

static void test_writer(void) {
  static const uint8_t byte = 1;
  struct spd_safetensors_item items[2] = {{"a", SPD_DTYPE_U8, 0, {0}, &byte}, {"a", SPD_DTYPE_U8, 0, {0}, &byte}};
  const struct spd_safetensors_pair twice[2] = {{"k", "1"}, {"k", "2"}}, broken = {"k", "\xff"};
  int before = count_files();
  CHECK_STATUS(spd_safetensors_write(in_folder("w"), items, 2, NULL, 0, 0, error), SPD_STATUS_INVALID, "'a' cannot be written twice");
  CHECK_STATUS(spd_safetensors_write(in_folder("w"), items, 1, twice, 2, 0, error), SPD_STATUS_INVALID, "'k' cannot be written twice");
  CHECK_STATUS(spd_safetensors_write(in_folder("w"), items, 1, &broken, 1, 0, error), SPD_STATUS_INVALID, "not UTF-8");
  items[0].name = "__metadata__";
  CHECK_STATUS(spd_safetensors_write(in_folder("w"), items, 1, NULL, 0, 0, error), SPD_STATUS_INVALID, "'__metadata__'");
  CHECK_STATUS(spd_safetensors_write(in_folder("no/such/w"), &items[1], 1, NULL, 0, 0, error), SPD_STATUS_IO,
               "no/such/w: cannot write: No such file");
  CHECK(count_files() == before, "refused writes left files");

  write_sample(in_folder("w"), 0);
  CHECK_STATUS(spd_safetensors_write(in_folder("w"), &items[1], 1, NULL, 0, 0, error), SPD_STATUS_IO, "w: cannot write: File exists");
  struct spd_safetensors *old, *new;
  MUST(spd_safetensors_open(&old, in_folder("w"), error));
  MUST(spd_safetensors_write(in_folder("w"), &items[1], 1, NULL, 0, 1, error));
  MUST(spd_safetensors_open(&new, in_folder("w"), error));
  double values[3];
  MUST(spd_safetensors_read_double(values, old, spd_safetensors_find(old, "f64"), error));
  CHECK(values[1] == -1e300 && new->n_tensors == 1, "an open file changed under its reader");
  spd_safetensors_close(old);
  spd_safetensors_close(new);
  CHECK(count_files() == before + 1, "a temporary file is left");
  CHECK_STATUS(spd_safetensors_write(folder, &items[1], 1, NULL, 0, 1, error), SPD_STATUS_IO, "cannot write: Is a directory");

  int is_root = geteuid() == 0; /* who may write everywhere */
  chmod(folder, 0555);
  if (is_root && seteuid(65534) != 0) {
    check_skip("read-only folder", "root cannot become another user here");
  } else {
    CHECK_STATUS(spd_safetensors_write(in_folder("x"), &items[1], 1, NULL, 0, 0, error), SPD_STATUS_IO, "x: cannot write: Permission");
  }
  if (is_root && seteuid(0) != 0) exit(2);
  chmod(folder, 0700);
}

/* A limit on the size of files makes write() fail half-way, as a full disk does. */
static void test_full_disk(void) {
  enum { N = 1 << 20 };
  uint8_t *bytes = check_alloc(N);
  struct spd_safetensors_item item = {"large", SPD_DTYPE_U8, 1, {N}, bytes};
  struct rlimit limit, small;
  write_sample(in_folder("kept"), 0);
  int before = count_files();
  signal(SIGXFSZ, SIG_IGN);
  getrlimit(RLIMIT_FSIZE, &limit);
  small = limit;
  small.rlim_cur = N / 2;
  fflush(stdout);
  setrlimit(RLIMIT_FSIZE, &small);
  struct spd_error error = {""};
  spd_status status = spd_safetensors_write(in_folder("kept"), &item, 1, NULL, 0, 1, &error);
  setrlimit(RLIMIT_FSIZE, &limit);
  CHECK(status == SPD_STATUS_IO && strstr(error.message, "kept: cannot write: "), "a full disk gives %s", error.message);
  CHECK(count_files() == before, "a full disk leaves debris");
  MUST(read_all(in_folder("kept"), error));
  free(bytes);
}

/* Thousands of damaged files: each is read or refused, and the sanitizers have nothing to say. */
static void test_damage(void) {
  size_t n = 0, accepted = 0, refused = 0, other = 0;
  write_sample(in_folder("damage"), 1);
  unsigned char *good = read_bytes(in_folder("damage"), &n), *bad = check_alloc(2 * n);
  size_t header = good[0] + 256u * good[1];
  static const char tokens[] = "{}[],:\"\\u0123456789eE.-+ \n\xc3\xff";
  for (uint64_t i = 0; i < 12000; i++) {
    uint64_t bits = spd_mix64(i);
    size_t length = n;
    memcpy(bad, good, n);
    switch (bits % 4) {
      case 0: length = spd_below(spd_mix64(bits), n + 1); break; /* cut */
      case 1:                                                    /* flip bits anywhere */
        for (uint64_t j = 0; j <= (bits >> 8 & 3); j++)
          bad[spd_below(spd_mix64(bits + j), n)] ^= (unsigned char)(1u << (bits >> (16 + 3 * j) & 7));
        break;
      case 2: /* exchange header bytes for JSON's own */
        for (uint64_t j = 0; j <= (bits >> 8 & 3); j++)
          bad[8 + spd_below(spd_mix64(bits + j), header)] = (unsigned char)tokens[spd_below(spd_mix64(bits + j + 99), sizeof tokens - 1)];
        break;
      default: { /* move a piece of the header over another */
        size_t from = 8 + spd_below(spd_mix64(bits + 1), header), to = 8 + spd_below(spd_mix64(bits + 2), header);
        size_t most = 8 + header - (from > to ? from : to);
        memmove(bad + to, good + from, spd_below(spd_mix64(bits + 3), most + 1));
      }
    }
    write_bytes("damage", bad, length);
    spd_status status = read_all(in_folder("damage"), NULL);
    if (status == SPD_STATUS_OK)
      accepted++;
    else if (status == SPD_STATUS_FORMAT)
      refused++;
    else
      other++;
  }
  CHECK(other == 0 && accepted + refused == 12000, "%zu accepted, %zu refused, %zu other", accepted, refused, other);
  CHECK(refused > 6000, "only %zu of 12000 damaged files were refused", refused);
  free(good);
  free(bad);
}

/* Files of another writer. */
static void test_reference(void) {
  static const char *const names[] = {"tiny", "paper"};
  const char *reference = getenv("SPENDER_REFERENCE");
  char path[PATH];
  for (int i = 0; i < 2; i++) {
    snprintf(path, sizeof path, "%s/%s.safetensors", reference ? reference : "../shared/reference", names[i]);
    if (access(path, R_OK) != 0) {
      check_skip(path, "no reference file (SPENDER_REFERENCE names their folder)");
      continue;
    }
    struct spd_safetensors *file;
    MUST(read_all(path, error));
    MUST(spd_safetensors_open(&file, path, error));
    CHECK(spd_safetensors_find(file, "output.loss") && file->n_tensors > 40, "%s: %zu tensors", path, file->n_tensors);
    spd_safetensors_close(file);
  }
}

int main(void) {
  make_folder("test-safetensors");
  test_round_trip();
  test_half();
  test_headers();
  test_foreign_files();
  test_writer();
  test_full_disk();
  test_damage();
  test_reference();
  remove_folder();
  return check_end();
}
