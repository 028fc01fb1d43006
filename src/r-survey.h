/* Survey files, open, for as long as an R call or a training session needs them. */
#ifndef SPD_R_SURVEY_H
#define SPD_R_SURVEY_H

#include "data/reader.h"
#include "r-util.h"

/* paths: a character vector. counts: how many spectra each had when the survey was opened, which is how many it has here, or NULL
 * for as many as there are. Memory is from malloc; r_surveys_close() also after a failure. */
spd_status r_surveys_open(struct spd_surveys *surveys, SEXP paths, SEXP counts, struct spd_error *error);
void r_surveys_close(struct spd_surveys *surveys);

/* Encodes `count` rows from `first` on of vectors and matrices of n, which are the first columns of the survey, PADDING and ROWSUM left
 * out. rows: (count, row_bytes), of which the other columns stay as they are. */
spd_status r_survey_put(unsigned char *rows, const struct spd_survey *survey, SEXP columns, size_t n, size_t first, size_t count,
                        struct spd_error *error);

#endif
