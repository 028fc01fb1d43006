#include "network/sums.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

#include "core/threads.h"

struct sum {
  float *host, *x; /* x: on the backend; the same where that is the host's memory */
  size_t count;
};

struct host_sums {
  struct spd_sums base;
  struct spd_group *group;
  struct spd_backend *backend;
  float *scratch, *staging; /* (most); staging: NULL where the backend has the host's memory */
  size_t most, staged;
  pid_t process; /* its thread does not exist in a fork */
  int threaded;
  pthread_t thread;
  pthread_mutex_t lock;
  pthread_cond_t changed;
  /* under the lock: */
  struct sum sums[SPD_MOST_SUMS];
  size_t begun, done;
  int stop;
  spd_status status; /* of the first that failed; those after it are not tried */
  struct spd_error error;
};

static struct host_sums *host_of(struct spd_sums *sums) { return (struct host_sums *)sums; }

static spd_status add_up(struct host_sums *s, const struct sum *sum, struct spd_error *error) {
  return spd_group_sum(s->group, sum->host, s->scratch, sum->count, error);
}

static void *run(void *argument) {
  struct host_sums *s = argument;
  pthread_mutex_lock(&s->lock);
  for (;;) {
    while (!s->stop && s->done == s->begun) pthread_cond_wait(&s->changed, &s->lock);
    if (s->stop) break;
    const struct sum sum = s->sums[s->done];
    const int skip = s->status != SPD_STATUS_OK;
    pthread_mutex_unlock(&s->lock);
    struct spd_error error = {""};
    const spd_status status = skip ? SPD_STATUS_OK : add_up(s, &sum, &error);
    pthread_mutex_lock(&s->lock);
    if (status != SPD_STATUS_OK) s->status = status, s->error = error;
    s->done++;
    pthread_cond_broadcast(&s->changed);
  }
  pthread_mutex_unlock(&s->lock);
  return NULL;
}

static spd_status host_begin(struct spd_sums *sums, float *x, size_t count, struct spd_error *error) {
  struct host_sums *s = host_of(sums);
  if (s->begun == SPD_MOST_SUMS || s->staged + count > s->most)
    return spd_fail(error, SPD_STATUS_INVALID, "internal: too many sums are under way");
  struct sum sum = {x, x, count};
  if (s->staging) {
    sum.host = s->staging + s->staged;
    SPD_TRY(s->backend->ops->download(s->backend, sum.host, x, count * sizeof *x, error));
  }
  s->staged += count;
  if (!s->threaded) {
    s->sums[s->begun++] = sum;
    s->done++;
    return add_up(s, &sum, error);
  }
  pthread_mutex_lock(&s->lock);
  s->sums[s->begun++] = sum;
  pthread_cond_broadcast(&s->changed);
  pthread_mutex_unlock(&s->lock);
  return SPD_STATUS_OK;
}

static spd_status host_end(struct spd_sums *sums, struct spd_error *error) {
  struct host_sums *s = host_of(sums);
  size_t n;
  pthread_mutex_lock(&s->lock);
  while (s->done < s->begun) pthread_cond_wait(&s->changed, &s->lock);
  const spd_status status = s->status;
  if (status != SPD_STATUS_OK && error) *error = s->error;
  n = s->begun;
  s->begun = s->done = 0;
  pthread_mutex_unlock(&s->lock);
  s->staged = 0;
  SPD_TRY(status);
  for (size_t i = 0; s->staging && i < n; i++)
    SPD_TRY(s->backend->ops->upload(s->backend, s->sums[i].x, s->sums[i].host, s->sums[i].count * sizeof *s->sums[i].x, error));
  return SPD_STATUS_OK;
}

static spd_status host_settle(struct spd_sums *sums, struct spd_error *error) {
  (void)sums; /* end() has waited */
  (void)error;
  return SPD_STATUS_OK;
}

static void host_destroy(struct spd_sums *sums) {
  struct host_sums *s = host_of(sums);
  if (!s || s->process != getpid()) return;
  if (s->threaded) {
    pthread_mutex_lock(&s->lock);
    s->stop = 1;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
  }
  pthread_cond_destroy(&s->changed);
  pthread_mutex_destroy(&s->lock);
  free(s->scratch);
  free(s->staging);
  free(s);
}

spd_status spd_sums_create(struct spd_sums **out, struct spd_group *group, struct spd_backend *backend, size_t most,
                           struct spd_error *error) {
  static const struct spd_sums_ops ops = {host_begin, host_end, host_settle, host_destroy};
  *out = NULL;
  struct host_sums *s = calloc(1, sizeof *s);
  if (!s) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate the sums over ranks");
  s->base.ops = &ops;
  s->group = group;
  s->backend = backend;
  s->most = most;
  s->process = getpid();
  pthread_mutex_init(&s->lock, NULL);
  pthread_cond_init(&s->changed, NULL);
  s->scratch = malloc((most + 1) * sizeof *s->scratch);
  s->staging = backend->ops->shares_host_memory ? NULL : malloc((most + 1) * sizeof *s->staging);
  if (!s->scratch || (!s->staging && !backend->ops->shares_host_memory)) {
    host_destroy(&s->base);
    return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate the sums over ranks");
  }
  s->threaded = group->many_threads && spd_thread_start(&s->thread, run, s);
  *out = &s->base;
  return SPD_STATUS_OK;
}
