/* Sessions: a backend, a model and the data of a training, owned by an external pointer. */
#ifndef SPD_R_SESSION_H
#define SPD_R_SESSION_H

#include <stdlib.h>
#include <sys/types.h>

#include "cuda/create.h"
#include "data/writer.h"
#include "network/infer.h"
#include "network/joint.h"
#include "network/model.h"
#include "network/train.h"
#include "r-survey.h"
#include "r-util.h"

/* Everything that a fit or a prediction holds outside R; freed by the external pointer's finalizer, so that neither an R error
 * nor an interrupt can leak it. */
struct r_session {
  struct spd_backend *backend;
  struct spd_model *model;
  struct spd_training *training;
  struct spd_sums *sums; /* of the training, or NULL */
  struct spd_inference *inference;
  struct r_results *results; /* of the inference; r-infer.c */
  struct spd_survey file;    /* that `writer` appends to, if it is not NULL */
  struct spd_writer *writer;
  struct r_simulating *simulating; /* a chunk of the file that is being made, or NULL; r-simulate.c */
  pid_t process;                   /* that the session was opened in */
  float *flux, *ivar, *z, *resolution;
  int resolved; /* models have the spectra's own resolutions, of this shape */
  struct spd_band band;
  struct spd_surveys surveys; /* or */
  struct spd_columns columns; /* instead of flux and ivar */
  uint64_t *places;           /* of the spectra in the surveys or columns */
  unsigned char *is_training;
  struct spd_schedule schedule;
  /* of a training of several instruments: the others, on this session's backend and with its decoder */
  struct r_session *others[SPD_MAX_INSTRUMENTS - 1];
  size_t n_others;
  struct spd_joint *joint; /* of all, once they are there */
  size_t validated;        /* of the parts, in the validation that is on its way */
  double validation_loss;  /* of this part */
};

/* The parts of a training, one for each instrument: their number, and part k */
static inline size_t r_session_parts(const struct r_session *session) { return 1 + session->n_others; }
static inline struct r_session *r_session_part(struct r_session *session, size_t k) { return k == 0 ? session : session->others[k - 1]; }
/* A further part of a training, zeroed; NULL without memory, or where there are as many as there may be. */
struct r_session *r_session_add_part(struct r_session *session);
void r_session_drop_part(struct r_session *session); /* frees the last one */

/* An external pointer to a zeroed session. Returned unprotected. */
SEXP r_session_new(struct r_session **session);
struct r_session *r_session_get(SEXP pointer);
void r_session_free(SEXP pointer);
/* Hands what is complete to the session's writer. */
void r_results_free(struct r_results *results, struct r_session *session);
/* Waits until the chunk that is being made is put to the writer. Interrupted: SPD_STATUS_INTERRUPTED, without the chunk */
spd_status r_simulating_end(struct r_session *session, struct spd_error *error);
void r_simulating_free(struct r_session *session); /* ends the thread that makes it */
/* Opens a survey file for the session to append to, chunk rows at a time; path: not R's buffer of expanded names */
spd_status r_session_write(struct r_session *session, const char *path, size_t chunk, struct spd_error *error);
/* Waits for what was put, and ends the file. Interrupted: SPD_STATUS_INTERRUPTED */
spd_status r_session_finish(struct r_session *session, struct spd_error *error);

/* Where to compute, from an R list: device ("cpu" or "cuda"), threads, precision ("fp32", "tf32", "bf16", "fp16"). */
struct r_device {
  int cuda, threads;
  spd_precision precision;
};
struct r_device r_device(SEXP options);

spd_status r_session_model(struct r_session *session, const struct spd_network *network, const float *weights, const float *wave_observed,
                           const float *wave_rest, size_t capacity, spd_model_purpose purpose, const struct r_device *device,
                           struct spd_error *error);

/* Spectra that are computed at a time, from an R list; no more than the n that there are. */
size_t r_batch_size(SEXP options, size_t n);

#endif
