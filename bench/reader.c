/* What reading a survey costs, without a network: spectra of a file delivered batch by batch into one buffer, as inference and training ask
 * for them, and the processor time of each thread.
 *
 *   cc -std=gnu99 -O2 -DSPD_HAVE_TARGET_CLONES -Isrc -pthread -o reader bench/reader.c src/core/[a-z]*.c $(ls src/data/[a-z]*.c) -lm
 *   reader FILE THREADS BATCH AHEAD [shuffled]      AHEAD: rows that are read ahead at a time, 0 for a window of the order */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "data/order.h"
#include "data/reader.h"

static double now(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Of each thread of this process, as the kernel counts it; those that read end when all rows are read. */
static void print_threads(double spectra) {
  printf("of each thread, us of the processor a spectrum:");
  DIR *tasks = opendir("/proc/self/task");
  for (struct dirent *task; tasks && (task = readdir(tasks));) {
    char path[300];
    double spent = 0;
    snprintf(path, sizeof path, "/proc/self/task/%.200s/schedstat", task->d_name);
    FILE *file = task->d_name[0] == '.' ? NULL : fopen(path, "r");
    if (!file) continue;
    if (fscanf(file, "%lf", &spent) == 1) printf(" %.2f", spent / 1e3 / spectra);
    fclose(file);
  }
  if (tasks) closedir(tasks);
  printf("\n");
}

int main(int argc, char **argv) {
  struct spd_survey survey;
  struct spd_error error;
  struct spd_reader *reader;
  if (argc < 5) return fprintf(stderr, "usage: reader FILE THREADS BATCH AHEAD [SHUFFLE]\n"), 1;
  if (spd_survey_open(&survey, argv[1], &error) != SPD_STATUS_OK) return fprintf(stderr, "%s\n", error.message), 1;
  const int threads = atoi(argv[2]);
  const size_t batch = strtoul(argv[3], NULL, 10), ahead = strtoul(argv[4], NULL, 10), m = survey.n_observed;
  uint64_t first[2] = {0, survey.n_rows}, *rows = malloc(survey.n_rows * sizeof *rows);
  struct spd_surveys surveys = {&survey, 1, first};
  float *flux = malloc(batch * m * sizeof *flux), *ivar = malloc(batch * m * sizeof *ivar);
  memset(flux, 0, batch * m * sizeof *flux), memset(ivar, 0, batch * m * sizeof *ivar);
  for (uint64_t i = 0; i < survey.n_rows; i++) rows[i] = i;
  if (argc > 5) spd_order_fill(rows, survey.n_rows, 1, 0);
  spd_status status = spd_reader_create(&reader, &surveys, ahead, threads, &error);
  const double clock = now(CLOCK_MONOTONIC), processor = now(CLOCK_PROCESS_CPUTIME_ID);
  if (status == SPD_STATUS_OK) status = spd_reader_start(reader, rows, survey.n_rows, NULL, &error);
  for (uint64_t from = 0; status == SPD_STATUS_OK && from < survey.n_rows; from += batch) {
    const size_t n = survey.n_rows - from < batch ? (size_t)(survey.n_rows - from) : batch;
    status = spd_reader_next(flux, ivar, n, reader, &error);
    if (from / batch == survey.n_rows / batch / 2) print_threads((double)(from + n));
  }
  if (status != SPD_STATUS_OK) return fprintf(stderr, "%s\n", error.message), 1;
  const double spectra = (double)survey.n_rows;
  printf("%d threads, batches of %zu, %zu ahead: %.0f spectra/s; %.2f us of the processor a spectrum\n", threads, batch, ahead,
         spectra / (now(CLOCK_MONOTONIC) - clock), 1e6 * (now(CLOCK_PROCESS_CPUTIME_ID) - processor) / spectra);
  spd_reader_destroy(reader);
  return 0;
}
