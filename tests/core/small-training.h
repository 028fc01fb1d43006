/* Training of the small network, on whatever backend. */
#ifndef SPD_TEST_SMALL_TRAINING_H
#define SPD_TEST_SMALL_TRAINING_H

#include <unistd.h>

#include "core/bytes.h"
#include "network/train.h"
#include "small-network.h"

enum { SMALL_ROWS = 61, SMALL_BATCH = 8 };

/* Resolutions of the spectra, NULL for none */
static const struct spd_band *small_band;
static const float *small_bands; /* (SMALL_ROWS, spd_band_width()) */

struct small_trained {
  float *weights, *m, *v;
  double loss_sum, validation;
  struct spd_progress progress;
};

/* The same spectra in a survey file, which stays until small_surveys_free(). Grids and redshifts are not read from it. */
CHECK_UNUSED static struct spd_surveys small_surveys_new(const struct small_data *d, size_t width) {
  struct spd_survey_column columns[] = {
      {"ID", 'A', 4, 0}, {"FLUX", 'E', width, 0}, {"IVAR", 'E', width, 0}, {"", 'E', spd_band_width(small_band, width), 0}};
  struct spd_surveys surveys = {check_alloc(sizeof *surveys.files), 1, check_alloc(2 * sizeof *surveys.first)};
  double *wave = check_alloc(width * sizeof *wave);
  if (small_band)
    snprintf(columns[3].name, sizeof columns[3].name, "RESOLUTION_%s_%zu_%zu", small_band->gaussian ? "SIGMA" : "BAND", small_band->size,
             small_band->step);
  char path[64];
  snprintf(path, sizeof path, "/tmp/spender-small-%ld.fits", (long)getpid());
  unlink(path);
  for (size_t m = 0; m < width; m++) wave[m] = (double)d->wave_observed[m];
  MUST(spd_survey_create(surveys.files, path, "SPECTRA", wave, width, "small", "", NULL, columns, small_band ? 4 : 3, error));
  for (size_t i = 0; i < SMALL_ROWS; i++) {
    unsigned char *row = calloc(1, surveys.files->row_bytes);
    spd_put_floats(row + surveys.files->columns[1].offset, d->flux + i * width, width);
    spd_put_floats(row + surveys.files->columns[2].offset, d->ivar + i * width, width);
    if (small_band) spd_put_floats(row + surveys.files->columns[3].offset, small_bands + i * columns[3].repeat, columns[3].repeat);
    MUST(spd_survey_append(surveys.files, row, 1, error));
    free(row);
  }
  unlink(path); /* it stays open */
  surveys.first[0] = 0;
  surveys.first[1] = SMALL_ROWS;
  free(wave);
  return surveys;
}

CHECK_UNUSED static void small_surveys_free(struct spd_surveys *surveys) {
  spd_survey_close(surveys->files);
  free(surveys->files);
  free(surveys->first);
}

/* From memory, or from surveys if they are not NULL. Validates in the middle of an epoch too, which must not disturb it. */
CHECK_UNUSED static void small_train_with(struct small_trained *out, struct spd_backend *backend, const struct spd_network *net,
                                          const struct small_data *d, const unsigned char *is_training, uint64_t seed, size_t steps,
                                          const struct spd_schedule *schedule, spd_feed_way way, const struct spd_surveys *surveys,
                                          uint64_t refine_from) {
  struct spd_model *model;
  struct spd_training *training;
  const struct spd_source source = {.flux = d->flux,
                                    .ivar = d->ivar,
                                    .resolution = small_bands,
                                    .z = d->z,
                                    .n_rows = SMALL_ROWS,
                                    .is_training = is_training,
                                    .surveys = surveys,
                                    .threads = 2};
  const struct spd_training_options options = {.batch_size = SMALL_BATCH,
                                               .seed = seed,
                                               .schedule = *schedule,
                                               .adam = {0, 0, 0.999, 1e-8, 1.0, 0},
                                               .way = way,
                                               .refine_from = refine_from};
  uint64_t count;
  int finished;
  memset(out, 0, sizeof *out);
  MUST(spd_model_create_with_resolution(&model, net, backend, d->wave_observed, d->wave_rest, SMALL_BATCH, SPD_MODEL_TRAIN, small_band,
                                        error));
  MUST(spd_model_set_parameters(model, d->weights, error));
  MUST(spd_training_create(&training, model, &source, &options, error));
  for (size_t i = 0; i < steps; i++) {
    MUST(spd_training_advance(training, 0, &out->progress, error));
    if (out->progress.epoch_finished) out->loss_sum = out->progress.loss_sum;
    if (i % 3 == 1 && way != SPD_FEED_RESIDENT) MUST(spd_training_validate(training, 1e9, &finished, &out->validation, &count, error));
  }
  MUST(spd_training_validate(training, 1e9, &finished, &out->validation, &count, error));
  out->weights = check_alloc(net->size * sizeof(float));
  out->m = check_alloc(net->size * sizeof(float));
  out->v = check_alloc(net->size * sizeof(float));
  MUST(spd_model_get_parameters(out->weights, model, error));
  MUST(spd_model_get_moments(out->m, out->v, model, error));
  spd_training_destroy(training);
  spd_model_destroy(model);
}

CHECK_UNUSED static void small_train(struct small_trained *out, struct spd_backend *backend, const struct spd_network *net,
                                     const struct small_data *d, const unsigned char *is_training, uint64_t seed, size_t steps,
                                     const struct spd_schedule *schedule, spd_feed_way way, const struct spd_surveys *surveys) {
  small_train_with(out, backend, net, d, is_training, seed, steps, schedule, way, surveys, UINT64_MAX);
}

CHECK_UNUSED static void small_train_refined(struct small_trained *out, struct spd_backend *backend, const struct spd_network *net,
                                             const struct small_data *d, const unsigned char *is_training, uint64_t seed, size_t steps,
                                             const struct spd_schedule *schedule, uint64_t refine_from) {
  small_train_with(out, backend, net, d, is_training, seed, steps, schedule, SPD_FEED_AUTO, NULL, refine_from);
}

CHECK_UNUSED static void small_trained_free(struct small_trained *t) {
  free(t->weights);
  free(t->m);
  free(t->v);
}

CHECK_UNUSED static int small_same_bits(const struct small_trained *a, const struct small_trained *b, size_t size) {
  return memcmp(a->weights, b->weights, size * sizeof(float)) == 0 && memcmp(a->m, b->m, size * sizeof(float)) == 0 &&
         memcmp(a->v, b->v, size * sizeof(float)) == 0 && a->progress.loss_sum == b->progress.loss_sum && a->validation == b->validation;
}

#endif
