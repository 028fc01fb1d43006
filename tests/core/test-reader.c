/* The reader of surveys: all rows come, once and in their order, whatever the order, wherever it stops, and for any number of threads. */
#include <sys/wait.h>

#include "check.h"
#include "data/order.h"
#include "data/reader.h"
#include "network/train.h"
#include "survey-files.h"

enum { FIRST = 10300, SECOND = 700, ROWS = FIRST + SECOND };

static char paths[2][64];

static void open_both(struct spd_surveys *surveys) {
  surveys->files = calloc(2, sizeof *surveys->files);
  surveys->first = calloc(3, sizeof *surveys->first);
  for (int f = 0; f < 2; f++) MUST(spd_survey_open(&surveys->files[f], paths[f], error));
  surveys->n_files = 2;
  surveys->first[1] = FIRST;
  surveys->first[2] = ROWS;
}

static void close_both(struct spd_surveys *surveys) {
  for (int f = 0; f < 2; f++) spd_survey_close(&surveys->files[f]);
  free(surveys->files);
  free(surveys->first);
}

/* `count` rows by batches of n; returns how many are not what they should be. */
static int take(struct spd_reader *reader, const uint64_t *rows, size_t count, const uint64_t *places, size_t n) {
  float *flux = malloc(n * FILE_PIXELS * sizeof *flux), *ivar = malloc(n * FILE_PIXELS * sizeof *ivar);
  int wrong = 0;
  for (size_t from = 0; from < count; from += n) {
    const size_t some = count - from < n ? count - from : n;
    MUST(spd_reader_next(flux, ivar, some, reader, error));
    for (size_t i = 0; i < some; i++) {
      const uint64_t place = places ? places[rows[from + i]] : rows[from + i];
      wrong += flux[i * FILE_PIXELS] != (float)place || ivar[i * FILE_PIXELS + 36] != 37;
    }
  }
  free(flux);
  free(ivar);
  return wrong;
}

static void test_orders(int threads, size_t ahead) {
  struct spd_surveys surveys;
  struct spd_reader *reader;
  open_both(&surveys);
  MUST(spd_reader_create(&reader, &surveys, ahead, threads, error));
  uint64_t *order = malloc(ROWS * sizeof *order), *places = malloc(ROWS * sizeof *places);
  for (uint64_t epoch = 0; epoch < 3; epoch++) {
    spd_order_fill(order, ROWS, 7, epoch);
    MUST(spd_reader_start(reader, order, ROWS, NULL, error));
    CHECK(take(reader, order, ROWS, NULL, 64) == 0, "epoch %d: rows differ", (int)epoch);
    /* a part of an epoch, then something else, then its rest: what validating in its middle does */
    MUST(spd_reader_start(reader, order, ROWS, NULL, error));
    CHECK(take(reader, order, 1000, NULL, 100) == 0, "the beginning differs");
    uint64_t few[] = {ROWS - 1, 0, FIRST, FIRST - 1, 5, 5, 6};
    MUST(spd_reader_start(reader, few, 7, NULL, error));
    CHECK(take(reader, few, 7, NULL, 3) == 0, "chosen rows differ");
    MUST(spd_reader_start(reader, order + 1000, ROWS - 1000, NULL, error));
    CHECK(take(reader, order + 1000, ROWS - 1000, NULL, 1024) == 0, "the rest differs");
  }
  for (uint64_t i = 0; i < ROWS; i++) places[i] = ROWS - 1 - i;
  MUST(spd_reader_start(reader, order, ROWS, places, error));
  CHECK(take(reader, order, ROWS, places, 1) == 0, "mapped rows differ");
  float pixel[2 * FILE_PIXELS];
  CHECK_STATUS(spd_reader_next(pixel, pixel + FILE_PIXELS, 1, reader, error), SPD_STATUS_INVALID, "no more");
  MUST(spd_reader_start(reader, order, ROWS, NULL, error));
  spd_reader_destroy(reader); /* while its threads read */
  close_both(&surveys);
  free(order);
  free(places);
}

static void test_damage(int threads) {
  struct spd_surveys surveys;
  struct spd_reader *reader;
  open_both(&surveys);
  FILE *file = fopen(paths[1], "r+b");
  fseek(file, (long)(surveys.files[1].rows_at + 600 * surveys.files[1].row_bytes + 100), SEEK_SET);
  fputc(0x55, file);
  fclose(file);
  MUST(spd_reader_create(&reader, &surveys, 0, threads, error));
  uint64_t rows[ROWS];
  for (uint64_t i = 0; i < ROWS; i++) rows[i] = i;
  MUST(spd_reader_start(reader, rows, ROWS, NULL, error));
  float *flux = malloc(ROWS * FILE_PIXELS * sizeof *flux), *ivar = malloc(ROWS * FILE_PIXELS * sizeof *ivar);
  MUST(spd_reader_next(flux, ivar, 5000, reader, error));
  CHECK_STATUS(spd_reader_next(flux, ivar, 6000, reader, error), SPD_STATUS_FORMAT, "spectrum 601");
  MUST(spd_reader_start(reader, rows, ROWS, NULL, error)); /* another start is another chance, and what failed stays failed */
  MUST(spd_reader_next(flux, ivar, 5000, reader, error));
  CHECK_STATUS(spd_reader_next(flux, ivar, 5950, reader, error), SPD_STATUS_FORMAT, "spectrum 601");
  CHECK_STATUS(spd_reader_next(flux, ivar, 10, reader, error), SPD_STATUS_FORMAT, "spectrum 601");
  MUST(spd_reader_start(reader, rows, 100, NULL, error));
  MUST(spd_reader_next(flux, ivar, 100, reader, error));
  CHECK(flux[99 * FILE_PIXELS] == 99, "row 99 is %g", (double)flux[99 * FILE_PIXELS]);
  spd_reader_destroy(reader);
  close_both(&surveys);
  free(flux);
  free(ivar);
}

/* Rows on both sides of one that is not there come, or fail, as if there were one thread: the error is that of the first row in the order.
 * What has been read before a file shrinks may still be delivered. */
static void test_shrinking(int threads) {
  struct spd_surveys surveys;
  struct spd_reader *reader;
  open_both(&surveys);
  float *flux = malloc(ROWS * FILE_PIXELS * sizeof *flux), *ivar = malloc(ROWS * FILE_PIXELS * sizeof *ivar);
  MUST(spd_reader_create(&reader, &surveys, 100, threads, error));
  uint64_t rows[ROWS];
  for (uint64_t i = 0; i < ROWS; i++) rows[i] = i;
  MUST(spd_reader_start(reader, rows, ROWS, NULL, error));
  MUST(spd_reader_next(flux, ivar, 1000, reader, error));
  const off_t cut = (off_t)(surveys.files[0].rows_at + 5003 * surveys.files[0].row_bytes + 7),
              whole = lseek(surveys.files[0].file, 0, SEEK_END);
  char *rest = malloc((size_t)(whole - cut));
  CHECK(pread(surveys.files[0].file, rest, (size_t)(whole - cut), cut) == whole - cut, "pread() fails");
  CHECK(truncate(paths[0], cut) == 0, "truncate() fails");
  MUST(spd_reader_next(flux, ivar, 4003, reader, error)); /* also the rows of the run that is cut */
  CHECK(flux[4002 * FILE_PIXELS] == 5002, "row 5002 is %g", (double)flux[4002 * FILE_PIXELS]);
  CHECK_STATUS(spd_reader_next(flux, ivar, 10, reader, error), SPD_STATUS_FORMAT, "is cut");
  uint64_t few[] = {10400, 5001, 9000, 5003, 8, 5003};
  for (int one = 0; one < 2; one++) {
    MUST(spd_reader_start(reader, few, 6, NULL, error));
    struct spd_error first = {""};
    MUST(spd_reader_next(flux, ivar, 2, reader, error));
    CHECK(spd_reader_next(flux, ivar, 4, reader, &first) == SPD_STATUS_FORMAT, "a row is not there");
    char end[64]; /* of row 9000, which comes before 5003 */
    snprintf(end, sizeof end, "before byte %llu", (unsigned long long)(surveys.files[0].rows_at + 9001 * surveys.files[0].row_bytes));
    CHECK(strstr(first.message, end), "'%s' is not about byte '%s'", first.message, end);
  }
  /* another chance, once the file is whole */
  FILE *file = fopen(paths[0], "r+b");
  fseek(file, (long)cut, SEEK_SET);
  CHECK(fwrite(rest, 1, (size_t)(whole - cut), file) == (size_t)(whole - cut), "fwrite() fails");
  fclose(file);
  MUST(spd_reader_start(reader, rows, ROWS, NULL, error));
  CHECK(take(reader, rows, ROWS, NULL, 300) == 0, "rows of the whole file differ");
  spd_reader_destroy(reader);
  close_both(&surveys);
  free(flux);
  free(ivar);
  free(rest);
}

/* In a child the reader refuses and can be given back, though its threads stayed in the parent. */
static void test_fork(void) {
  struct spd_surveys surveys;
  struct spd_reader *reader;
  open_both(&surveys);
  MUST(spd_reader_create(&reader, &surveys, 0, 2, error));
  uint64_t rows[ROWS];
  for (uint64_t i = 0; i < ROWS; i++) rows[i] = i;
  MUST(spd_reader_start(reader, rows, ROWS, NULL, error));
  float pixel[2 * FILE_PIXELS];
  fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    struct spd_error refusal = {""};
    alarm(20);
    const int refused = spd_reader_next(pixel, pixel + FILE_PIXELS, 1, reader, &refusal) == SPD_STATUS_UNSUPPORTED &&
                        strstr(refusal.message, "fork") && spd_reader_start(reader, rows, 9, NULL, &refusal) == SPD_STATUS_UNSUPPORTED;
    spd_reader_destroy(reader);
    _exit(!refused);
  }
  int status = 1;
  CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0, "a forked child: status %d", status);
  CHECK(take(reader, rows, ROWS, NULL, 512) == 0, "rows after a fork differ");
  spd_reader_destroy(reader);
  close_both(&surveys);
}

int main(void) {
  for (int f = 0; f < 2; f++) {
    struct spd_survey s;
    snprintf(paths[f], sizeof paths[f], "/tmp/spender-reader-%ld-%d.fits", (long)getpid(), f);
    survey_file_make_wide(&s, paths[f], f ? 50 : 9); /* rows of different lengths */
    survey_file_append(&s, f ? FIRST : 0, f ? SECOND : FIRST);
    spd_survey_close(&s);
  }
  for (int threads = 1; threads <= 8; threads *= 2) {
    test_orders(threads, 0);
    test_orders(threads, 150);
    test_shrinking(threads);
  }
  test_fork();
  for (int threads = 1; threads <= 8; threads *= 2) test_damage(threads);
  for (int f = 0; f < 2; f++) unlink(paths[f]);
  return check_end();
}
