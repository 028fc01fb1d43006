/* A survey in one FITS file: an image WAVELENGTH, then a binary table SPECTRA with a row for each spectrum (catalogue columns, FLUX, IVAR,
 * a checksum of the row), or a table RESULTS with a row for each prediction. Rows are appended so that a program killed at any moment
 * leaves a file of whole rows; any FITS tool reads it. No library is used: appending needs control of the order of writes, and reading must
 * not trust any byte. */
#ifndef SPD_DATA_SURVEY_H
#define SPD_DATA_SURVEY_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"
#include "data/band.h"
#include "data/fits.h"

enum { SPD_SURVEY_MAX_COLUMNS = 500 };

/* 'A' text of `repeat` bytes, 'J' int32 (INT32_MIN: unknown), 'D' double (NaN: unknown), 'L' logical ('T', 'F', 0: unknown),
 * 'E' `repeat` floats. */
struct spd_survey_column {
  char name[SPD_FITS_TEXT];
  char type;
  size_t repeat;
  size_t offset; /* in a row; set by the functions below */
};
size_t spd_survey_column_bytes(const struct spd_survey_column *column);

struct spd_survey {
  int file;            /* descriptor */
  char file_name[256]; /* without folders */
  char instrument[SPD_FITS_TEXT];
  char prepared[SPD_FITS_TEXT]; /* fingerprint of the preparation, or of the inputs of results; may be empty */
  char part[SPD_FITS_TEXT];     /* "2/8": the rows are those of this part of the inputs; empty: of all */
  size_t n_observed;            /* M */
  double *wave;                 /* (M) Å */
  size_t n_columns, row_bytes;
  struct spd_survey_column *columns;
  int is_results;                                           /* the table is RESULTS */
  int id_column, flux_column, ivar_column, checksum_column; /* indices in `columns`; -1 if absent */
  int resolution_column;                                    /* of floats, whose name says of which shape; -1 if absent */
  struct spd_band band;
  uint64_t n_rows;
  uint64_t count_at, rows_at; /* in the file: the card NAXIS2, the first row */
  uint64_t header_at;         /* of the table */
  int finished;               /* checksums of the table were written */
  int knows_sum;              /* of all rows, since it was without rows when it was opened to append to: */
  uint32_t sum;
  struct spd_fits_header *header; /* workspace of functions that take a survey that is not const */
};

/* A survey to read. Fails where the file is not one, where it is cut, or where a checksum of a header does not fit. */
spd_status spd_survey_open(struct spd_survey *survey, const char *path, struct spd_error *error);
/* A new file, which must not exist, without rows. columns: names and types, those of floats last; wave: (M). `table` is
 * SPECTRA, or RESULTS, which needs no FLUX and IVAR. part: NULL for all. */
spd_status spd_survey_create(struct spd_survey *survey, const char *path, const char *table, const double *wave, size_t n_observed,
                             const char *instrument, const char *prepared, const char *part, const struct spd_survey_column *columns,
                             size_t n_columns, struct spd_error *error);
/* Opens an existing one to append to. Bytes that a killed program left after the last whole row are cut off. Fails while another has it
 * open to append to. */
spd_status spd_survey_reopen(struct spd_survey *survey, const char *path, struct spd_error *error);
void spd_survey_close(struct spd_survey *survey);

/* Sets the checksums of `count` rows (count, row_bytes) and appends them: rows, padding, flush, then the number of rows. */
spd_status spd_survey_append(struct spd_survey *survey, unsigned char *rows, size_t count, struct spd_error *error);
/* Its parts, for rows that several threads make: room for rows up to number `end` - 1, which must not be asked for while rows are written;
 * writes a row (row_bytes), whose checksum it sets, reentrant; and appends the `count` rows that were written after those that are there.
 * What was written and not appended is not part of the file, and is cut off when it is reopened. */
spd_status spd_survey_reserve(const struct spd_survey *survey, uint64_t end, struct spd_error *error);
spd_status spd_survey_write_row(unsigned char *row, const struct spd_survey *survey, uint64_t number, struct spd_error *error);
spd_status spd_survey_append_written(struct spd_survey *survey, const unsigned char *rows, size_t count, struct spd_error *error);
/* Ends the file: a table REJECTED of n inputs and reasons, if there are any, and the standard's checksums, for which all rows are read
 * unless they were appended since the file was without any: if `stopped` (NULL: never) says so meanwhile, SPD_STATUS_INTERRUPTED, and the
 * file is as it was before. It can be reopened. */
spd_status spd_survey_finish(struct spd_survey *survey, const char *const *inputs, const char *const *reasons, size_t n,
                             int (*stopped)(void), struct spd_error *error);
/* The rows of REJECTED: *n of them, texts that the caller frees with *inputs and *reasons (one block each). */
spd_status spd_survey_rejected(char ***inputs, char ***reasons, size_t *n, struct spd_survey *survey, struct spd_error *error);

/* `count` rows as they are in the file, their checksums verified. rows: (count, row_bytes). Reentrant. */
spd_status spd_survey_read(unsigned char *rows, const struct spd_survey *survey, uint64_t first, size_t count, struct spd_error *error);

/* Its parts: read without checking; whether a row's checksum fits; the error for one whose checksum does not. */
spd_status spd_survey_read_raw(unsigned char *rows, const struct spd_survey *survey, uint64_t first, size_t count, struct spd_error *error);
int spd_survey_is_sound(const unsigned char *row, const struct spd_survey *survey);
spd_status spd_survey_damaged(const struct spd_survey *survey, uint64_t row, struct spd_error *error);

/* n bytes of one row from `offset` on, without verifying its checksum */
spd_status spd_survey_read_part(unsigned char *bytes, const struct spd_survey *survey, uint64_t row, size_t offset, size_t n,
                                struct spd_error *error);

/* Decodes the spectrum of a row. Where flux or ivar is not finite, or ivar is negative, both become 0. */
void spd_survey_get_spectrum(float *flux, float *ivar, const unsigned char *row, const struct spd_survey *survey);
/* ... and its resolution (spd_band_width()), which the survey has. What is not finite, and a negative width of a Gaussian, becomes 0. */
void spd_survey_get_resolution(float *resolution, const unsigned char *row, const struct spd_survey *survey);

#endif
