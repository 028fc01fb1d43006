/* Appends rows to a survey file on a background thread, chunk by chunk in order, while the next chunk is made. */
#ifndef SPD_DATA_WRITER_H
#define SPD_DATA_WRITER_H

#include "data/survey.h"

struct spd_writer;

/* survey: open to append to; it must outlive the writer, and is the writer's until spd_writer_wait(). chunk: rows, at most */
spd_status spd_writer_create(struct spd_writer **writer, struct spd_survey *survey, size_t chunk, struct spd_error *error);
/* Writes what was put, and ends. */
void spd_writer_destroy(struct spd_writer *writer);

/* A zeroed buffer for the next chunk (chunk, row_bytes), once there is one: also while another one that was given is not put yet. Fails if
 * writing has failed. */
spd_status spd_writer_next(unsigned char **rows, struct spd_writer *writer, struct spd_error *error);
/* Hands over the first `count` rows of the buffer that was given first of those that were not put. */
void spd_writer_put(struct spd_writer *writer, size_t count);
/* The same for rows that spd_survey_write_row() has written */
void spd_writer_put_written(struct spd_writer *writer, size_t count);
/* Waits until all that was put is in the file. Fails if writing has failed. */
spd_status spd_writer_wait(struct spd_writer *writer, struct spd_error *error);

#endif
