#include "r-source.h"

#include "core/memory.h"

static void check_shape(struct r_source *s, SEXP resolution, size_t width) {
  struct spd_error error;
  if (resolution == R_NilValue) return;
  s->band.size = (size_t)r_list_whole(resolution, "size", 1, 1023);
  s->band.step = (size_t)r_list_whole(resolution, "step", 1, 1e6);
  s->band.gaussian = r_list_flag(resolution, "gaussian");
  s->values = r_list_get(resolution, "values");
  s->resolved = 1;
  if (spd_band_check(&s->band, width, &error) != SPD_STATUS_OK) Rf_error("internal: %s", error.message);
}

struct r_source r_check_source(SEXP list, size_t n, size_t width) {
  struct r_source s = {r_list_get(list, "flux"),
                       r_list_get(list, "ivar"),
                       r_list_get(list, "paths"),
                       r_list_get(list, "counts"),
                       r_list_get(list, "rows"),
                       R_NilValue,
                       0,
                       {1, 1, 0}};
  check_shape(&s, r_list_get(list, "resolution"), width);
  if (s.flux == R_NilValue) {
    r_check_texts(s.paths, "paths", R_ANY);
    if (Rf_xlength(s.paths) == 0) Rf_error("internal: there are neither spectra nor survey files");
    r_check_numbers(s.counts, "counts", (size_t)Rf_xlength(s.paths));
    r_check_numbers(s.rows, "rows", n); /* their range is known once the files are open */
    return s;
  }
  if (!Rf_isMatrix(s.flux)) Rf_error("internal: 'flux' must be a matrix of doubles");
  const size_t n_rows = (size_t)Rf_nrows(s.flux);
  r_check_matrix(s.flux, "flux", n_rows, width);
  r_check_matrix(s.ivar, "ivar", n_rows, width);
  if (s.resolved) r_check_matrix(s.values, "values", n_rows, spd_band_width(&s.band, width));
  r_check_rows(s.rows, n, (double)n_rows);
  return s;
}

static spd_status open_files(struct r_session *session, const struct r_source *source, size_t n, size_t width, struct spd_error *error) {
  SPD_TRY(r_surveys_open(&session->surveys, source->paths, source->counts, error));
  int results = 0;
  for (size_t f = 0; f < session->surveys.n_files; f++) results |= session->surveys.files[f].is_results;
  for (size_t f = 0; f < session->surveys.n_files && source->resolved; f++) {
    const struct spd_survey *s = &session->surveys.files[f];
    if (s->resolution_column < 0 || s->band.size != source->band.size || s->band.step != source->band.step ||
        s->band.gaussian != source->band.gaussian)
      return spd_fail(error, SPD_STATUS_FORMAT, "%.200s has no resolutions of the expected shape", s->file_name);
  }
  const double n_there = (double)session->surveys.first[session->surveys.n_files];
  for (size_t i = 0; i < n; i++) {
    const double row = REAL_RO(source->rows)[i];
    if (!(row >= 1 && row <= n_there) || session->surveys.files[0].n_observed != width || results)
      return spd_fail(error, SPD_STATUS_FORMAT, "the survey files are not those that were opened: open_survey() them again");
  }
  return SPD_STATUS_OK;
}

spd_status r_source_open(struct r_session *session, const struct r_source *source, size_t n, size_t width, struct spd_error *error) {
  session->resolved = source->resolved;
  session->band = source->band;
  if (source->flux == R_NilValue) return open_files(session, source, n, width, error);
  session->columns = (struct spd_columns){REAL_RO(source->flux), REAL_RO(source->ivar), (size_t)Rf_nrows(source->flux),
                                          source->resolved ? REAL_RO(source->values) : NULL};
  return SPD_STATUS_OK;
}

spd_status r_source_allocate(struct r_session *session, size_t n, struct spd_error *error) {
  session->z = malloc((n + 1) * sizeof *session->z);
  session->places = malloc((n + 1) * sizeof *session->places);
  if (session->z && session->places) return SPD_STATUS_OK;
  return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate the numbers of %zu spectra", n);
}

spd_status r_source_copy(struct r_session *session, size_t n, size_t width, int threads, struct spd_error *error) {
  enum { AT_ONCE = 4096 };
  const struct spd_columns *columns = &session->columns;
  session->flux = spd_memory_new(n * width * sizeof(float));
  session->ivar = spd_memory_new(n * width * sizeof(float));
  const size_t resolved = session->resolved ? spd_band_width(&session->band, width) : 0;
  if (resolved) session->resolution = spd_memory_new(n * resolved * sizeof(float));
  if (!session->flux || !session->ivar || (resolved && !session->resolution))
    return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate %.1f MB for the spectra; a survey file needs less, see write_survey()",
                    4e-6 * (double)(n * (2 * width + resolved)));
  for (size_t from = 0; from < n; from += AT_ONCE) {
    const size_t count = n - from < AT_ONCE ? n - from : AT_ONCE;
    spd_columns_take(session->flux + from * width, columns->flux, columns->n_rows, session->places + from, count, width, threads);
    spd_columns_take(session->ivar + from * width, columns->ivar, columns->n_rows, session->places + from, count, width, threads);
    if (resolved)
      spd_columns_take(session->resolution + from * resolved, columns->resolution, columns->n_rows, session->places + from, count, resolved,
                       threads);
    R_CheckUserInterrupt(); /* the session is the garbage collector's to free */
  }
  return SPD_STATUS_OK;
}
