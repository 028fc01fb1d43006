/* Sessions: objects outside R that live within or between .Call entries. */
#include "r-session.h"

#include <string.h>
#include <unistd.h>

#include "cpu/create.h"
#include "cuda/create.h"
#include "r-entries.h"

/* Without its backend */
static void free_contents(struct r_session *session) {
  spd_training_destroy(session->training);
  if (session->sums) session->sums->ops->destroy(session->sums);
  r_results_free(session->results, session);
  r_simulating_free(session);
  spd_writer_destroy(session->writer);
  spd_survey_close(&session->file);
  spd_inference_destroy(session->inference);
  spd_model_destroy(session->model);
  free(session->flux);
  free(session->ivar);
  free(session->z);
  free(session->resolution);
  free(session->is_training);
  r_surveys_close(&session->surveys);
  free(session->places);
}

void r_session_drop_part(struct r_session *session) {
  struct r_session *part = session->others[--session->n_others];
  free_contents(part);
  free(part);
}

static void finalize(SEXP pointer) {
  struct r_session *session = R_ExternalPtrAddr(pointer);
  if (!session) return;
  R_ClearExternalPtr(pointer);
  spd_joint_destroy(session->joint);
  while (session->n_others > 0) r_session_drop_part(session); /* before the first, whose decoder they use */
  free_contents(session);
  if (session->backend) session->backend->ops->destroy(session->backend);
  free(session);
}

static SEXP session_tag(void) { return Rf_install("spender_session"); }

SEXP r_session_new(struct r_session **session) {
  SEXP pointer = PROTECT(R_MakeExternalPtr(NULL, session_tag(), R_NilValue));
  R_RegisterCFinalizerEx(pointer, finalize, TRUE);
  *session = calloc(1, sizeof **session);
  if (!*session) Rf_error("could not allocate a session");
  (*session)->file.file = -1;
  (*session)->process = getpid();
  R_SetExternalPtrAddr(pointer, *session);
  UNPROTECT(1);
  return pointer;
}

void r_session_free(SEXP pointer) { finalize(pointer); }

struct r_session *r_session_add_part(struct r_session *session) {
  if (session->n_others == SPD_MAX_INSTRUMENTS - 1) return NULL;
  struct r_session *part = calloc(1, sizeof *part);
  if (!part) return NULL;
  part->file.file = -1;
  part->process = session->process;
  session->others[session->n_others++] = part;
  return part;
}

struct r_session *r_session_get(SEXP pointer) {
  const int ours = TYPEOF(pointer) == EXTPTRSXP && R_ExternalPtrTag(pointer) == session_tag();
  struct r_session *session = ours ? R_ExternalPtrAddr(pointer) : NULL;
  if (!session) Rf_error("internal: this session is closed");
  return session;
}

spd_status r_session_write(struct r_session *session, const char *path, size_t chunk, struct spd_error *error) {
  SPD_TRY(spd_survey_reopen(&session->file, path, error));
  return spd_writer_create(&session->writer, &session->file, chunk, error);
}

spd_status r_session_finish(struct r_session *session, struct spd_error *error) {
  SPD_TRY(r_simulating_end(session, error));
  SPD_TRY(spd_writer_wait(session->writer, error));
  return spd_survey_finish(&session->file, NULL, NULL, 0, r_interrupted, error);
}

SEXP ffi_session_close(SEXP pointer) {
  r_session_get(pointer);
  r_session_free(pointer);
  return R_NilValue;
}

static int choice(SEXP options, const char *name, const char *const *choices) {
  const SEXP value = r_list_get(options, name);
  const char *chosen = Rf_isString(value) && Rf_xlength(value) == 1 ? CHAR(STRING_ELT(value, 0)) : "";
  for (int i = 0; choices[i]; i++)
    if (strcmp(chosen, choices[i]) == 0) return i;
  Rf_error("internal: unknown %s '%s'", name, chosen);
}

struct r_device r_device(SEXP options) {
  static const char *const devices[] = {"cpu", "cuda", NULL}, *const precisions[] = {"fp32", "tf32", "bf16", "fp16", NULL};
  const struct r_device device = {choice(options, "device", devices), (int)r_list_whole(options, "threads", 1, 4096),
                                  (spd_precision)choice(options, "precision", precisions)};
  return device;
}

spd_status r_session_model(struct r_session *session, const struct spd_network *network, const float *weights, const float *wave_observed,
                           const float *wave_rest, size_t capacity, spd_model_purpose purpose, const struct r_device *device,
                           struct spd_error *error) {
  SPD_TRY(device->cuda ? spd_cuda_create(&session->backend, device->precision, error)
                       : spd_cpu_create(&session->backend, device->threads, error));
  SPD_TRY(spd_model_create_with_resolution(&session->model, network, session->backend, wave_observed, wave_rest, capacity, purpose,
                                           session->resolved ? &session->band : NULL, error));
  return spd_model_set_parameters(session->model, weights, error);
}

size_t r_batch_size(SEXP options, size_t n) {
  const size_t wanted = (size_t)r_list_whole(options, "batch_size", 1, 1e6);
  return wanted < n ? wanted : n > 0 ? n : 1;
}
