/* Survey files: what is written is what is read, and what is damaged is refused. */
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "core/rng.h"
#include "data/survey.h"
#include "survey-files.h"

enum { M = FILE_PIXELS };

static char path[64];

static void make(struct spd_survey *s) { survey_file_make(s, path); }

static void append(struct spd_survey *s, int first, int count) { survey_file_append(s, first, count); }

static void check_rows(const char *what, const struct spd_survey *s, int n) {
  CHECK(s->n_rows == (uint64_t)n, "%s: %d rows, not %d", what, (int)s->n_rows, n);
  unsigned char *rows = malloc(s->row_bytes * (size_t)(n + 1));
  MUST(spd_survey_read(rows, s, 0, (size_t)n, error));
  int wrong = 0;
  for (int i = 0; i < n; i++) {
    const unsigned char *row = rows + (size_t)i * s->row_bytes;
    char id[16];
    float flux[M], ivar[M];
    snprintf(id, sizeof id, "id-%06d", i);
    spd_survey_get_spectrum(flux, ivar, row, s);
    wrong += memcmp(id, row, 9) != 0 || spd_get_double(row + s->columns[1].offset) != 0.001 * i ||
             spd_get_int(row + s->columns[3].offset) != -i || flux[0] != (float)i || flux[M - 1] != (float)(i + 18) || ivar[M - 1] != M;
  }
  CHECK(wrong == 0, "%s: %d rows differ", what, wrong);
  free(rows);
}

static void test_round_trip(void) {
  struct spd_survey s;
  make(&s);
  CHECK(strcmp(s.instrument, "it's") == 0, "the instrument is %s", s.instrument);
  CHECK(strcmp(s.prepared, "so and so") == 0 && strcmp(s.part, "2/8") == 0, "they are %s of %s", s.part, s.prepared);
  CHECK(s.row_bytes % 4 == 0 && s.columns[s.flux_column].offset % 4 == 0, "rows are not aligned");
  append(&s, 0, 3);
  append(&s, 3, 1);
  check_rows("while writing", &s, 4);
  spd_survey_close(&s);
  MUST(spd_survey_open(&s, path, error));
  CHECK(!s.finished && s.wave[M - 1] == 4000 + M - 1, "opened before its end");
  check_rows("unfinished", &s, 4);
  spd_survey_close(&s);

  MUST(spd_survey_reopen(&s, path, error));
  append(&s, 4, 100);
  static const char *const inputs[] = {"a.fits", "folder/b.fits"}, *const reasons[] = {"is cut", "no"};
  MUST(spd_survey_finish(&s, inputs, reasons, 2, NULL, error));
  spd_survey_close(&s);
  MUST(spd_survey_open(&s, path, error));
  CHECK(s.finished, "it is not finished");
  check_rows("finished", &s, 104);
  char **found_inputs, **found_reasons;
  size_t n;
  MUST(spd_survey_rejected(&found_inputs, &found_reasons, &n, &s, error));
  CHECK(n == 2 && strcmp(found_inputs[1], "folder/b.fits") == 0 && strcmp(found_reasons[0], "is cut") == 0, "%d rejected", (int)n);
  free(found_inputs);
  free(found_reasons);
  CHECK_STATUS(spd_survey_read(NULL, &s, 100, 5, error), SPD_STATUS_INVALID, "104");
  spd_survey_close(&s);

  MUST(spd_survey_reopen(&s, path, error)); /* and on */
  append(&s, 104, 2);
  MUST(spd_survey_finish(&s, NULL, NULL, 0, NULL, error));
  check_rows("continued", &s, 106);
  MUST(spd_survey_rejected(&found_inputs, &found_reasons, &n, &s, error));
  CHECK(n == 0, "%d rejected remain", (int)n);
  spd_survey_close(&s);
}

static unsigned char *content(size_t *size) {
  FILE *file = fopen(path, "rb");
  fseek(file, 0, SEEK_END);
  *size = (size_t)ftell(file);
  unsigned char *bytes = malloc(*size);
  rewind(file);
  CHECK(fread(bytes, 1, *size, file) == *size, "cannot read");
  fclose(file);
  return bytes;
}

/* The same file from rows that are appended, that are written one by one, and that are summed up when they are read again. */
static void test_ways(void) {
  struct spd_survey s;
  unsigned char *files[4];
  size_t sizes[4];
  for (int way = 0; way < 4; way++) {
    make(&s);
    CHECK(s.knows_sum, "the sum of no rows is not known");
    const size_t row_bytes = s.row_bytes;
    unsigned char *rows = malloc(60 * row_bytes);
    for (int i = 0; i < 60; i++) survey_file_fill(rows + (size_t)i * row_bytes, &s, i);
    for (size_t first = 0; first < 60 && way >= 2; first += 30) {
      MUST(spd_survey_reserve(&s, first + 30, error));
      for (size_t i = 30; i-- > 0;) MUST(spd_survey_write_row(rows + (first + i) * row_bytes, &s, first + i, error));
      if (first > 0) { /* the next chunk was begun while this one is flushed */
        MUST(spd_survey_append_written(&s, rows, 30, error));
        MUST(spd_survey_append_written(&s, rows + 30 * row_bytes, 30, error));
      }
    }
    if (way < 2) MUST(spd_survey_append(&s, rows, 60, error));
    if (way % 2 == 1) {
      if (way == 3) { /* rows that are written, but not appended */
        MUST(spd_survey_reserve(&s, 70, error));
        MUST(spd_survey_write_row(rows, &s, 65, error));
      }
      spd_survey_close(&s);
      MUST(spd_survey_reopen(&s, path, error));
      CHECK(!s.knows_sum, "the sum of rows that were there is known");
    }
    MUST(spd_survey_finish(&s, NULL, NULL, 0, NULL, error));
    check_rows("one way of many", &s, 60);
    spd_survey_close(&s);
    files[way] = content(&sizes[way]);
    CHECK(sizes[way] == sizes[0] && memcmp(files[way], files[0], sizes[0]) == 0, "way %d gives other bytes", way);
    free(rows);
  }
  for (int way = 0; way < 4; way++) free(files[way]);
}

/* A writer that dies leaves any prefix of the bytes that it was about to write. */
static void test_killed(void) {
  struct spd_survey s;
  make(&s);
  append(&s, 0, 5);
  uint64_t end = s.rows_at + 5 * s.row_bytes;
  spd_survey_close(&s);
  FILE *file = fopen(path, "r+b");
  fseek(file, (long)end, SEEK_SET);
  for (int i = 0; i < 777; i++) fputc('x', file); /* rows that were not counted yet */
  fclose(file);
  MUST(spd_survey_open(&s, path, error));
  check_rows("after a kill", &s, 5);
  char **inputs, **reasons;
  size_t n_rejected;
  MUST(spd_survey_rejected(&inputs, &reasons, &n_rejected, &s, error)); /* what follows is no table */
  CHECK(n_rejected == 0, "%d rejected after a kill", (int)n_rejected);
  spd_survey_close(&s);
  MUST(spd_survey_reopen(&s, path, error));
  append(&s, 5, 3);
  check_rows("continued after a kill", &s, 8);
  spd_survey_close(&s);
}

static void test_refusals(void) {
  struct spd_survey s;
  make(&s);
  append(&s, 0, 5);
  MUST(spd_survey_finish(&s, NULL, NULL, 0, NULL, error));
  uint64_t rows_at = s.rows_at, row_bytes = s.row_bytes, flux_at = s.columns[s.flux_column].offset;
  spd_survey_close(&s);
  CHECK_STATUS(spd_survey_create(&s, path, "SPECTRA", NULL, 0, "", "", NULL, NULL, 0, error), SPD_STATUS_IO, "creating");
  CHECK_STATUS(spd_survey_open(&s, "/nonexistent/file", error), SPD_STATUS_IO, "opening");
  CHECK_STATUS(spd_survey_open(&s, ".", error), SPD_STATUS_IO, "regular");
  CHECK(truncate(path, (off_t)(rows_at + 3 * row_bytes + 10)) == 0, "cannot cut");
  CHECK_STATUS(spd_survey_open(&s, path, error), SPD_STATUS_FORMAT, "first 3");

  make(&s);
  append(&s, 0, 5);
  MUST(spd_survey_finish(&s, NULL, NULL, 0, NULL, error));
  spd_survey_close(&s);
  FILE *file = fopen(path, "r+b");
  fseek(file, (long)(rows_at + 2 * row_bytes + flux_at + 5), SEEK_SET);
  fputc(0x55, file);
  fclose(file);
  MUST(spd_survey_open(&s, path, error));
  unsigned char *rows = malloc(5 * row_bytes);
  CHECK_STATUS(spd_survey_read(rows, &s, 0, 5, error), SPD_STATUS_FORMAT, "spectrum 3");
  MUST(spd_survey_read(rows, &s, 3, 2, error));
  free(rows);
  spd_survey_close(&s);
}

/* Bytes changed and files cut at random: refused, or the rows that are read are right. MUTATIONS in the environment: how many. */
static void test_mutations(void) {
  struct spd_survey s;
  make(&s);
  append(&s, 0, 4);
  static const char *const inputs[] = {"a.fits"}, *const reasons[] = {"is cut"};
  MUST(spd_survey_finish(&s, inputs, reasons, 1, NULL, error));
  spd_survey_close(&s);
  FILE *file = fopen(path, "rb");
  fseek(file, 0, SEEK_END);
  size_t size = (size_t)ftell(file);
  rewind(file);
  unsigned char *good = malloc(size), *bad = malloc(size), *rows = malloc(size);
  CHECK(fread(good, 1, size, file) == size, "cannot read");
  fclose(file);
  const char *wanted = getenv("MUTATIONS");
  const int n = wanted ? atoi(wanted) : 500;
  int silent = 0, refused = 0;
  for (int i = 0; i < n; i++) {
    struct spd_random random = spd_random_start(1, 2, (uint64_t)i);
    memcpy(bad, good, size);
    size_t length = size;
    if (i % 4 == 0)
      length = (size_t)(spd_random_uniform(&random) * (double)size);
    else
      for (int k = 0; k <= i % 3; k++)
        bad[(size_t)(spd_random_uniform(&random) * (double)(i % 2 ? size : size / 2))] ^=
            (unsigned char)(1 + 254 * spd_random_uniform(&random));
    file = fopen(path, "wb");
    fwrite(bad, 1, length, file);
    fclose(file);
    struct spd_error error = {""};
    if (spd_survey_open(&s, path, &error) != SPD_STATUS_OK) {
      refused++;
      continue;
    }
    char **found_inputs, **found_reasons;
    size_t n_rejected;
    if (spd_survey_rejected(&found_inputs, &found_reasons, &n_rejected, &s, &error) == SPD_STATUS_OK) {
      free(found_inputs);
      free(found_reasons);
    }
    if (s.n_rows * s.row_bytes <= size && spd_survey_read(rows, &s, 0, (size_t)s.n_rows, &error) == SPD_STATUS_OK) {
      /* accepted: then every row is as it was */
      int same = s.n_rows == 4 && memcmp(rows, good + s.rows_at, 4 * s.row_bytes) == 0;
      for (int m = 0; same && m < M; m++) same = s.wave[m] == 4000 + m;
      silent += !same;
    } else
      refused++;
    spd_survey_close(&s);
  }
  CHECK(silent == 0, "%d of %d mutations went unnoticed", silent, n);
  CHECK(refused > n / 4, "%d of %d mutations were refused", refused, n);
  free(good);
  free(bad);
  free(rows);
}

int main(void) {
  snprintf(path, sizeof path, "/tmp/spender-survey-%ld.fits", (long)getpid());
  test_round_trip();
  test_ways();
  test_killed();
  test_refusals();
  test_mutations();
  unlink(path);
  return check_end();
}
