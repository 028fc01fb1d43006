/* .Call entries that read files of DESI: spectra, prepared, and masks. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/files.h"
#include "core/threads.h"
#include "data/desi.h"
#include "r-entries.h"
#include "r-spectra.h"
#include "r-util.h"

/* The file that is being read: a handle for each thread, of which the others are opened from the first one where they are needed. After an
 * interrupt R's garbage collector closes them. */
struct handles {
  struct spd_desi **of_thread;
  int n;
};

static void close_file(struct handles *h) {
  for (int i = h->n - 1; i >= 0; i--) {
    spd_desi_close(h->of_thread[i]);
    h->of_thread[i] = NULL;
  }
}

static void finalize(SEXP pointer) {
  struct handles *h = R_ExternalPtrAddr(pointer);
  if (!h) return;
  R_ClearExternalPtr(pointer);
  close_file(h);
  free(h->of_thread);
  free(h);
}

static SEXP new_handles(struct handles **out, int threads) {
  SEXP pointer = PROTECT(R_MakeExternalPtr(NULL, R_NilValue, R_NilValue));
  R_RegisterCFinalizerEx(pointer, finalize, TRUE);
  struct handles *h = calloc(1, sizeof *h);
  if (!h || !(h->of_thread = calloc((size_t)threads, sizeof *h->of_thread))) {
    free(h);
    Rf_error("no memory for files of DESI");
  }
  h->n = threads;
  R_SetExternalPtrAddr(pointer, h);
  *out = h;
  UNPROTECT(1);
  return pointer;
}

struct outcome {
  spd_status status;
  struct spd_error error;
};

/* Spectra start to stop - 1 of n, all of one file. Spectrum i is the coadd of rows[begin[i]] to rows[begin[i + 1] - 1]. */
struct reading {
  struct handles *handles;
  struct r_block *buffers;
  const size_t *rows, *begin;
  const double *z;
  double *flux, *ivar, *norm;
  double *resolution;      /* (n, R_DESI_DIAGONALS * M), columns of one pixel after the other; NULL: not wanted */
  double **bands, **total; /* of each thread: (R_BLOCK, R_DESI_DIAGONALS, M), (R_BLOCK, M) */
  int *found;
  size_t n, start, stop;
  struct spd_uniform_grid grid;
  const struct spd_preparation *preparation;
  struct outcome *outcomes; /* one for each block */
};

static spd_status coadd(const struct reading *r, size_t first, size_t count, int thread, struct spd_error *error) {
  struct spd_desi **desi = &r->handles->of_thread[thread];
  if (!*desi) SPD_TRY(spd_desi_reopen(desi, r->handles->of_thread[0], error));
  return spd_desi_coadd(r->buffers[thread].flux, r->buffers[thread].ivar, *desi, r->grid, r->rows, r->begin + first, count, error);
}

enum { R_DESI_DIAGONALS = 11 };

/* Matrices of spectra, diagonal by diagonal, to rows of R's matrix, which has them pixel by pixel */
static void write_resolution(const struct reading *r, const double *bands, size_t first, size_t count) {
  const size_t size = r->grid.size, width = R_DESI_DIAGONALS * size, ahead = 16; /* columns: each is in another page */
  for (size_t m = 0; m < size; m++)
    for (size_t k = 0; k < R_DESI_DIAGONALS; k++) {
      double *column = r->resolution + (m * R_DESI_DIAGONALS + k) * r->n + first;
      for (size_t i = 0; i < count && m * R_DESI_DIAGONALS + k + ahead < width; i += 8) __builtin_prefetch(column + ahead * r->n + i, 1);
      for (size_t i = 0; i < count; i++) column[i] = bands[i * width + k * size + m];
    }
}

static spd_status read_resolution(const struct reading *r, size_t first, size_t count, int thread, struct spd_error *error) {
  SPD_TRY(spd_desi_resolution(r->bands[thread], r->total[thread], r->handles->of_thread[thread], r->grid, r->rows, r->begin + first, count,
                              error));
  write_resolution(r, r->bands[thread], first, count);
  return SPD_STATUS_OK;
}

static void read_block(const void *context, size_t block, int thread) {
  const struct reading *r = context;
  struct r_block *buffer = &r->buffers[thread];
  struct outcome *outcome = &r->outcomes[block];
  const size_t first = r->start + block * R_BLOCK, count = r->stop - first < R_BLOCK ? r->stop - first : R_BLOCK, size = r->grid.size;
  outcome->status = coadd(r, first, count, thread, &outcome->error);
  if (r->resolution && outcome->status == SPD_STATUS_OK) outcome->status = read_resolution(r, first, count, thread, &outcome->error);
  if (outcome->status != SPD_STATUS_OK) return;
  for (size_t i = 0; i < count; i++) {
    double *y = buffer->flux + i * size, *w = buffer->ivar + i * size;
    spd_prepare_clean(y, w, size);
    r->found[first + i] = spd_prepare_normalize(&r->norm[first + i], y, w, buffer->work, r->z[first + i], r->preparation);
  }
  r_rows_to_columns(r->flux, buffer->flux, r->n, size, first, count);
  r_rows_to_columns(r->ivar, buffer->ivar, r->n, size, first, count);
}

/* Between two parts; interrupts leave from here. */
static void pause_reading(SEXP tick, size_t done) {
  R_CheckUserInterrupt();
  if (tick == R_NilValue) return;
  SEXP call = PROTECT(Rf_lang2(tick, PROTECT(Rf_ScalarReal((double)done))));
  Rf_eval(call, R_BaseEnv);
  UNPROTECT(2);
}

/* The spectra of one file, begin to end - 1 */
static spd_status read_file(struct reading *r, size_t begin, size_t end, int threads, SEXP tick, struct spd_error *error) {
  for (r->start = begin; r->start < end; r->start = r->stop) {
    r->stop = end - r->start < R_CHUNK ? end : r->start + R_CHUNK;
    const size_t n_blocks = (r->stop - r->start + R_BLOCK - 1) / R_BLOCK;
    spd_parallel(threads, n_blocks, read_block, r);
    for (size_t b = 0; b < n_blocks; b++)
      if (r->outcomes[b].status != SPD_STATUS_OK) {
        *error = r->outcomes[b].error;
        return r->outcomes[b].status;
      }
    if (r->stop < end) pause_reading(tick, r->stop);
  }
  return SPD_STATUS_OK;
}

static spd_status open_file(struct spd_desi_facts *facts, struct handles *handles, const char *path, double length, int resolved,
                            struct spd_error *error) {
  SPD_TRY(spd_desi_open(&handles->of_thread[0], path, error));
  spd_desi_describe(facts, handles->of_thread[0]);
  if (resolved && facts->n_diagonals != R_DESI_DIAGONALS)
    return spd_fail(error, SPD_STATUS_FORMAT, "%.200s has no resolution matrices of %d diagonals in all arms", spd_file_name(path),
                    R_DESI_DIAGONALS);
  if ((double)facts->n_rows == length) return SPD_STATUS_OK;
  return spd_fail(error, SPD_STATUS_FORMAT, "%.200s has spectra in %zu rows where FIBERMAP has %.0f", spd_file_name(path), facts->n_rows,
                  length);
}

enum { FLUX, IVAR, NORM, FOUND, PROBLEM, SURVEY, PROGRAM, ARMS, HEALPIX, TILE, RESOLUTION, N_RESULTS };
static const char *const result_names[] = {"flux",    "ivar", "norm",    "found", "problem",   "survey",
                                           "program", "arms", "healpix", "tile",  "resolution"};

static SEXP new_result(size_t n, size_t width, R_xlen_t n_files) {
  SEXP result = PROTECT(r_list_new(N_RESULTS, result_names));
  for (int k = 0; k < RESOLUTION; k++) {
    const SEXPTYPE type = k == FOUND ? INTSXP : k < PROBLEM || k >= HEALPIX ? REALSXP : STRSXP;
    SET_VECTOR_ELT(result, k,
                   k <= IVAR ? Rf_allocMatrix(type, (int)n, (int)width) : Rf_allocVector(type, k < PROBLEM ? (R_xlen_t)n : n_files));
  }
  UNPROTECT(1);
  return result;
}

static void record_file(SEXP result, R_xlen_t file, const struct spd_desi_facts *facts, spd_status status, const struct spd_error *error) {
  const char *texts[] = {[PROBLEM] = status == SPD_STATUS_OK ? "" : error->message,
                         [SURVEY] = facts->survey,
                         [PROGRAM] = facts->program,
                         [ARMS] = facts->arms};
  const double numbers[] = {[HEALPIX] = facts->healpix, [TILE] = facts->tile};
  for (int k = PROBLEM; k <= ARMS; k++) SET_STRING_ELT(VECTOR_ELT(result, k), file, texts[k][0] ? Rf_mkChar(texts[k]) : NA_STRING);
  for (int k = HEALPIX; k <= TILE; k++) REAL(VECTOR_ELT(result, k))[file] = ISNAN(numbers[k]) ? NA_REAL : numbers[k];
}

/* Offsets of the spectra's rows in `rows`, and those rows from 0. Each is checked to be one of its file. */
static void take_rows(size_t *begin, size_t *rows, SEXP file, SEXP counts, SEXP lengths, SEXP rows_in) {
  const size_t n = (size_t)Rf_xlength(file), n_rows = (size_t)Rf_xlength(rows_in);
  const R_xlen_t n_files = Rf_xlength(lengths);
  begin[0] = 0;
  for (size_t i = 0; i < n; i++) {
    const double f = REAL_RO(file)[i], count = REAL_RO(counts)[i];
    if (!(f >= 1 && f <= (double)n_files) || f != floor(f) || (i > 0 && f < REAL_RO(file)[i - 1]))
      Rf_error("internal: 'file' must be numbers of files, increasing");
    if (!(count >= 1 && count <= (double)(n_rows - begin[i])) || count != floor(count))
      Rf_error("internal: 'counts' must be numbers of rows, and their sum the length of 'rows'");
    begin[i + 1] = begin[i] + (size_t)count;
    for (size_t k = begin[i]; k < begin[i + 1]; k++) {
      const double row = REAL_RO(rows_in)[k];
      if (!(row >= 1 && row <= REAL_RO(lengths)[(R_xlen_t)f - 1] && row <= 1e15) || row != floor(row))
        Rf_error("internal: 'rows' must be numbers of rows, from 1 to the length of their file");
      rows[k] = (size_t)row - 1;
    }
  }
  if (begin[n] != n_rows) Rf_error("internal: 'counts' must be numbers of rows, and their sum the length of 'rows'");
}

/* Spectrum i is the coadd of the next counts[i] rows (from 1) of file[i], which increase; lengths: rows of the files' tables. Where a file
 * is bad, its `problem` is the sentence, and its spectra are zeros, or what was read of them. tick(done) is called on the main thread
 * between parts. */
SEXP ffi_read_desi(SEXP paths, SEXP lengths, SEXP file, SEXP counts, SEXP rows, SEXP z, SEXP recipe, SEXP tick) {
  r_check_texts(paths, "paths", R_ANY);
  const R_xlen_t n_files = Rf_xlength(paths);
  const size_t n = (size_t)Rf_xlength(file), n_rows = (size_t)Rf_xlength(rows);
  r_check_numbers(lengths, "lengths", (size_t)n_files);
  r_check_numbers(file, "file", n);
  r_check_numbers(counts, "counts", n);
  r_check_numbers(rows, "rows", n_rows);
  r_check_numbers(z, "z", n);
  if (tick != R_NilValue && !Rf_isFunction(tick)) Rf_error("internal: 'tick' must be a function or NULL");
  const int threads = r_team_size(r_list_get(recipe, "threads"), n);
  const int resolved = r_list_flag(recipe, "resolution");
  const struct spd_preparation preparation = r_preparation(recipe);
  const struct spd_uniform_grid grid = {preparation.wave[0], SPD_DESI_STEP, preparation.n_observed};
  if (!(fabs(grid.first) < 1e6)) Rf_error("internal: a grid of DESI begins near 3600");
  size_t *begin = (size_t *)R_alloc(n + 1, sizeof *begin), *rows_from_0 = (size_t *)R_alloc(n_rows + 1, sizeof *rows_from_0);
  take_rows(begin, rows_from_0, file, counts, lengths, rows);
  SEXP result = PROTECT(new_result(n, grid.size, n_files));
  for (int k = FLUX; k <= IVAR; k++) r_use_large_pages(VECTOR_ELT(result, k));
  struct reading reading = {.buffers = r_blocks(threads, grid.size),
                            .rows = rows_from_0,
                            .begin = begin,
                            .z = REAL_RO(z),
                            .flux = REAL(VECTOR_ELT(result, FLUX)),
                            .ivar = REAL(VECTOR_ELT(result, IVAR)),
                            .norm = REAL(VECTOR_ELT(result, NORM)),
                            .found = INTEGER(VECTOR_ELT(result, FOUND)),
                            .n = n,
                            .grid = grid,
                            .preparation = &preparation,
                            .outcomes = (struct outcome *)R_alloc(R_CHUNK / R_BLOCK + 1, sizeof(struct outcome))};
  if (resolved) {
    SEXP matrix = Rf_allocMatrix(REALSXP, (int)n, (int)(R_DESI_DIAGONALS * grid.size));
    SET_VECTOR_ELT(result, RESOLUTION, matrix);
    r_use_large_pages(matrix);
    reading.resolution = REAL(matrix);
    reading.bands = (double **)R_alloc((size_t)threads, sizeof *reading.bands);
    reading.total = (double **)R_alloc((size_t)threads, sizeof *reading.total);
    for (int i = 0; i < threads; i++) {
      reading.bands[i] = (double *)R_alloc(R_BLOCK * R_DESI_DIAGONALS * grid.size, sizeof(double));
      reading.total[i] = (double *)R_alloc(R_BLOCK * grid.size, sizeof(double));
    }
  }
  SEXP pointer = PROTECT(new_handles(&reading.handles, threads));
  struct spd_error error = {""};
  spd_status status = SPD_STATUS_OK;
  for (size_t f = 0, i = 0; f < (size_t)n_files && status != SPD_STATUS_UNSUPPORTED; f++) {
    size_t end = i;
    while (end < n && REAL_RO(file)[end] == (double)f + 1) end++;
    struct spd_desi_facts facts = {.healpix = NAN, .tile = NAN};
    status = open_file(&facts, reading.handles, R_ExpandFileName(Rf_translateChar(STRING_ELT(paths, (R_xlen_t)f))), REAL_RO(lengths)[f],
                       resolved, &error);
    if (status == SPD_STATUS_OK) status = read_file(&reading, i, end, threads, tick, &error);
    close_file(reading.handles);
    record_file(result, (R_xlen_t)f, &facts, status, &error);
    pause_reading(end > i ? tick : R_NilValue, end);
    i = end;
  }
  finalize(pointer);
  UNPROTECT(2);
  if (status == SPD_STATUS_UNSUPPORTED) r_raise(status, &error);
  return result;
}

/* ---- masks ---- */

enum { NOT_THERE, NOT_FINITE, WITHOUT_WEIGHT, WITH_WEIGHT };

/* Of spectra of one file, as ffi_read_desi() takes them: `bits` of their masks, and `state`: 0, no arm has the pixel; 1, a value is not
 * finite; 2, it has no weight; 3, it has. Matrices of n rows and as many columns as `wave`, the grid, has pixels */
SEXP ffi_desi_masks(SEXP path, SEXP length, SEXP counts, SEXP rows, SEXP wave) {
  static const char *const names[] = {"bits", "state"};
  const char *name = R_ExpandFileName(r_text(path, "path"));
  const size_t n = (size_t)Rf_xlength(counts), n_rows = (size_t)Rf_xlength(rows), size = (size_t)Rf_xlength(wave);
  r_check_numbers(length, "length", 1);
  r_check_numbers(counts, "counts", n);
  r_check_numbers(rows, "rows", n_rows);
  r_check_numbers(wave, "wave", size);
  if (size < 2 || size > 1000000 || !(fabs(REAL_RO(wave)[0]) < 1e6)) Rf_error("internal: 'wave' must be a grid of DESI");
  const struct spd_uniform_grid grid = {REAL_RO(wave)[0], SPD_DESI_STEP, size};
  size_t *begin = (size_t *)R_alloc(n + 1, sizeof *begin), *rows_from_0 = (size_t *)R_alloc(n_rows + 1, sizeof *rows_from_0);
  SEXP file = PROTECT(Rf_allocVector(REALSXP, (R_xlen_t)n));
  for (size_t i = 0; i < n; i++) REAL(file)[i] = 1;
  take_rows(begin, rows_from_0, file, counts, length, rows);
  SEXP result = PROTECT(r_list_new(2, names));
  SET_VECTOR_ELT(result, 0, Rf_allocMatrix(REALSXP, (int)n, (int)size));
  SET_VECTOR_ELT(result, 1, Rf_allocMatrix(INTSXP, (int)n, (int)size));
  double *flux = (double *)R_alloc(size, sizeof *flux), *ivar = (double *)R_alloc(size, sizeof *ivar);
  uint32_t *bits = (uint32_t *)R_alloc(size, sizeof *bits);
  unsigned char *state = (unsigned char *)R_alloc(size, 1);
  struct handles *handles;
  SEXP pointer = PROTECT(new_handles(&handles, 1));
  struct spd_desi_facts facts;
  struct spd_error error = {""};
  spd_status status = open_file(&facts, handles, name, REAL_RO(length)[0], 0, &error);
  for (size_t i = 0; i < n && status == SPD_STATUS_OK; i++) {
    status = spd_desi_coadd(flux, ivar, handles->of_thread[0], grid, rows_from_0, begin + i, 1, &error);
    if (status == SPD_STATUS_OK) status = spd_desi_masks(bits, state, handles->of_thread[0], grid, rows_from_0, begin + i, 1, &error);
    for (size_t m = 0; m < size && status == SPD_STATUS_OK; m++) {
      REAL(VECTOR_ELT(result, 0))[m * n + i] = bits[m];
      INTEGER(VECTOR_ELT(result, 1))
      [m * n + i] = ivar[m] > SPD_PREPARE_LEAST_IVAR              ? WITH_WEIGHT
                    : !(state[m] & SPD_DESI_PIXEL_THERE)          ? NOT_THERE
                    : (state[m] & SPD_DESI_PIXEL_NOT_FINITE) != 0 ? NOT_FINITE
                                                                  : WITHOUT_WEIGHT;
    }
  }
  finalize(pointer);
  UNPROTECT(3);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return result;
}
