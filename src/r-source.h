/* The spectra of a session: R's matrices, or rows of survey files. */
#ifndef SPD_R_SOURCE_H
#define SPD_R_SOURCE_H

#include "r-session.h"

/* `rows` (from 1) of the matrices flux and ivar; or, of survey files, `paths` with `counts` spectra each and `rows` over all of them. With
 * `resolution`, a list of size, step, gaussian (struct spd_band) and, of matrices, values, models have the resolutions of the spectra. */
struct r_source {
  SEXP flux, ivar, paths, counts, rows, values;
  int resolved;
  struct spd_band band;
};

/* A list of these, n rows of `width` pixels */
struct r_source r_check_source(SEXP list, size_t n, size_t width);
/* Sets the session's shape of resolutions, and opens its surveys or sets its columns, which point into R's matrices. */
spd_status r_source_open(struct r_session *session, const struct r_source *source, size_t n, size_t width, struct spd_error *error);
/* Allocates the session's redshifts and places, for n spectra. */
spd_status r_source_allocate(struct r_session *session, size_t n, struct spd_error *error);
/* Sets them for spectrum i: row `row` of the source */
static inline void r_source_place(struct r_session *session, size_t i, const struct r_source *source, const double *z, size_t row) {
  session->z[i] = (float)z[row];
  session->places[i] = (uint64_t)REAL_RO(source->rows)[row] - 1;
}
/* Copies the columns' n rows to the session's flux, ivar and resolution. R's interrupts are looked at meanwhile. */
spd_status r_source_copy(struct r_session *session, size_t n, size_t width, int threads, struct spd_error *error);

#endif
