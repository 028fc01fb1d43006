/* A group whose ranks are threads of one program. Any exchange of a rank can be made its last: it ends as if its process had died. */
#ifndef SPD_TEST_PLAYED_GROUP_H
#define SPD_TEST_PLAYED_GROUP_H

#include <pthread.h>
#include <time.h>

#include "check.h"
#include "network/group.h"

enum { PLAYED_RANKS = 8 };

/* Called around an exchange, where ranks take turns outside it; NULL: they do not */
CHECK_UNUSED static void (*played_leave)(void);
CHECK_UNUSED static void (*played_enter)(void);

struct played_rank {
  struct spd_group base;
  struct played *all;
  long dies_at;   /* the number of its exchange in which it dies; -1: none */
  long exchanges; /* so far */
  int dead;
};

struct played {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  struct played_rank ranks[PLAYED_RANKS];
  /* what `from` has sent to `to` and is not taken yet */
  struct {
    const void *bytes;
    size_t n;
    int full;
  } box[PLAYED_RANKS][PLAYED_RANKS];
  int teller;
  char told[256];
  char hosts[PLAYED_RANKS][SPD_HOST_NAME];
};

/* Waits for a change until then; 0: that is over */
static int played_wait(struct played *p, const struct timespec *until) { return pthread_cond_timedwait(&p->changed, &p->lock, until) == 0; }

static spd_status played_exchange(struct spd_group *group, int with, const void *send, size_t send_bytes, void *receive,
                                  size_t receive_bytes, struct spd_error *error) {
  struct played_rank *me = (struct played_rank *)group;
  struct played *p = me->all;
  const int rank = group->rank;
  struct timespec until;
  char name[128];
  spd_status status = SPD_STATUS_OK;
  int sent = send_bytes == 0, received = receive_bytes == 0, posted = 0;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += (time_t)group->patience;
  until.tv_nsec += (long)((group->patience - (double)(time_t)group->patience) * 1e9);
  if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
  spd_group_name(name, sizeof name, group, with);
  if (played_leave) played_leave();
  pthread_mutex_lock(&p->lock);
  if (me->exchanges++ == me->dies_at) me->dead = 1;
  while (status == SPD_STATUS_OK && !(sent && received)) {
    if (me->dead)
      status = spd_fail(error, SPD_STATUS_INTERRUPTED, "this rank is dead");
    else if (p->teller >= 0 && p->teller != rank)
      status = spd_fail(error, SPD_STATUS_DEVICE, "rank %d: %s", p->teller, p->told);
    else if (!posted && !sent && !p->box[rank][with].full) {
      p->box[rank][with].bytes = send, p->box[rank][with].n = send_bytes, p->box[rank][with].full = posted = 1;
      pthread_cond_broadcast(&p->changed);
    } else if (!received && p->box[with][rank].full) {
      if (p->box[with][rank].n != receive_bytes)
        CHECK(0, "rank %d sends %zu bytes, rank %d wants %zu", with, p->box[with][rank].n, rank, receive_bytes);
      if (p->box[with][rank].n == receive_bytes) memcpy(receive, p->box[with][rank].bytes, receive_bytes);
      p->box[with][rank].full = 0;
      received = 1;
      pthread_cond_broadcast(&p->changed);
    } else if (posted && !p->box[rank][with].full)
      sent = 1;
    else if (!played_wait(p, &until))
      status = spd_fail(error, SPD_STATUS_DEVICE, "%s has not answered", name);
  }
  if (status != SPD_STATUS_OK && posted) p->box[rank][with].full = 0; /* its bytes are gone */
  pthread_mutex_unlock(&p->lock);
  if (played_enter) played_enter();
  return status;
}

static void played_tell(struct spd_group *group, const char *message) {
  struct played *p = ((struct played_rank *)group)->all;
  pthread_mutex_lock(&p->lock);
  if (p->teller < 0) {
    p->teller = group->rank;
    snprintf(p->told, sizeof p->told, "%s", message);
  }
  pthread_cond_broadcast(&p->changed);
  pthread_mutex_unlock(&p->lock);
}

struct played_run {
  struct spd_group *group;
  void *context;
  void (*work)(struct spd_group *, void *context);
};
static void *played_thread(void *argument) {
  const struct played_run *run = argument;
  run->work(run->group, run->context);
  return NULL;
}

/* Calls work(group, context) as each of the ranks. Rank `victim` dies in its exchange number dies_at (-1: none does). */
CHECK_UNUSED static void played_run(int size, int threads, double patience, int victim, long dies_at,
                                    void (*work)(struct spd_group *, void *context), void *context) {
  static const struct spd_group_ops ops = {"played", played_exchange, played_tell};
  struct played *p = check_alloc(sizeof *p);
  struct played_run runs[PLAYED_RANKS];
  pthread_t running[PLAYED_RANKS];
  pthread_mutex_init(&p->lock, NULL);
  pthread_cond_init(&p->changed, NULL);
  p->teller = -1;
  for (int r = 0; r < size; r++) {
    snprintf(p->hosts[r], SPD_HOST_NAME, "host%d", r);
    p->ranks[r] = (struct played_rank){
        {&ops, r, size, r, threads, patience, (const char(*)[SPD_HOST_NAME])p->hosts}, p, r == victim ? dies_at : -1, 0, 0};
    runs[r] = (struct played_run){&p->ranks[r].base, context, work};
  }
  for (int r = 0; r < size; r++)
    if (pthread_create(&running[r], NULL, played_thread, &runs[r]) != 0) exit(2);
  for (int r = 0; r < size; r++) pthread_join(running[r], NULL);
  pthread_cond_destroy(&p->changed);
  pthread_mutex_destroy(&p->lock);
  free(p);
}

#endif
