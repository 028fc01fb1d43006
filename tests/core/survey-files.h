/* Small survey files whose rows say which they are. */
#ifndef SPD_TEST_SURVEY_FILES_H
#define SPD_TEST_SURVEY_FILES_H

#include <unistd.h>

#include "check.h"
#include "core/bytes.h"
#include "data/survey.h"

enum { FILE_PIXELS = 37 };

/* A new file, open to be appended to, whose ids have `id_size` characters: 9 at least. */
CHECK_UNUSED static void survey_file_make_wide(struct spd_survey *s, const char *path, size_t id_size) {
  const struct spd_survey_column columns[] = {{"ID", 'A', id_size, 0},      {"Z", 'D', 1, 0},    {"NORM", 'D', 1, 0},
                                              {"plate", 'J', 1, 0},         {"good", 'L', 1, 0}, {"FLUX", 'E', FILE_PIXELS, 0},
                                              {"IVAR", 'E', FILE_PIXELS, 0}};
  double wave[FILE_PIXELS];
  for (int m = 0; m < FILE_PIXELS; m++) wave[m] = 4000 + m;
  unlink(path);
  MUST(spd_survey_create(s, path, "SPECTRA", wave, FILE_PIXELS, "it's", "so and so", "2/8", columns, 7, error));
}

CHECK_UNUSED static void survey_file_make(struct spd_survey *s, const char *path) { survey_file_make_wide(s, path, 9); }

CHECK_UNUSED static void survey_file_fill(unsigned char *row, const struct spd_survey *s, int number) {
  float values[FILE_PIXELS];
  char id[16];
  memset(row, 0, s->row_bytes);
  snprintf(id, sizeof id, "id-%06d", number);
  memcpy(row, id, 9);
  spd_put_double(row + s->columns[1].offset, 0.001 * number);
  spd_put_double(row + s->columns[2].offset, 1 + number);
  spd_put_int(row + s->columns[3].offset, -number);
  row[s->columns[4].offset] = number % 2 ? 'T' : 'F';
  for (int m = 0; m < FILE_PIXELS; m++) values[m] = (float)(number + 0.5 * m);
  spd_put_floats(row + s->columns[s->flux_column].offset, values, FILE_PIXELS);
  for (int m = 0; m < FILE_PIXELS; m++) values[m] = (float)(1 + m);
  spd_put_floats(row + s->columns[s->ivar_column].offset, values, FILE_PIXELS);
}

CHECK_UNUSED static void survey_file_append(struct spd_survey *s, int first, int count) {
  unsigned char *rows = malloc((size_t)count * s->row_bytes);
  for (int i = 0; i < count; i++) survey_file_fill(rows + (size_t)i * s->row_bytes, s, first + i);
  MUST(spd_survey_append(s, rows, (size_t)count, error));
  free(rows);
}

#endif
