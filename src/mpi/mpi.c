/* A group of MPI's processes. Messages are asynchronous and looked at until they are there, so that a wait can end: when it has lasted too
 * long, or when another rank has told that it stops. All calls of MPI are under one lock, as it need not bear two threads at once. */
#define _GNU_SOURCE /* dladdr() */
#include <dlfcn.h>
#include <mpi.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "mpi/create.h"
#include "mpi/launched.h"

enum { DATA = 1, TOLD = 2, MESSAGE = 400, LARGEST = 1 << 30 };

struct mpi_group {
  struct spd_group base;
  MPI_Comm comm;
  pthread_mutex_t lock;
  int begun_here; /* MPI was initialised by this package */
  int broken;     /* an exchange has failed, or somebody told: no more of them */
  char told[MESSAGE];
  char hosts[][SPD_HOST_NAME];
};

static struct mpi_group *group;
static pid_t process; /* that joined: a fork of it has no part in MPI */

static struct mpi_group *mpi_of(struct spd_group *base) { return (struct mpi_group *)base; }

int spd_mpi_built(void) { return 1; }

int spd_mpi_launched(void) {
  int begun = 0;
  return spd_mpi_in_environment() || (MPI_Initialized(&begun) == MPI_SUCCESS && begun);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Between two looks: the first ones at once, as answers mostly come within microseconds; later ones leave the core to others. */
static void pause_between(unsigned looks) {
  const struct timespec some = {0, looks < 2000 ? 20000 : 200000};
  if (looks >= 200) nanosleep(&some, NULL);
}

static spd_status failed(struct spd_error *error, int code, const char *what) {
  char text[MPI_MAX_ERROR_STRING] = "";
  int length;
  MPI_Error_string(code, text, &length);
  return spd_fail(error, SPD_STATUS_DEVICE, "%s: MPI says %.300s", what, text);
}

/* ---- stopping ---- */

/* With the lock: has another rank told something? */
static spd_status listen_for_stops(struct mpi_group *g, struct spd_error *error) {
  int there = 0;
  MPI_Status from;
  if (!g->broken && MPI_Iprobe(MPI_ANY_SOURCE, TOLD, g->comm, &there, &from) == MPI_SUCCESS && there) {
    char message[MESSAGE] = "", name[SPD_HOST_NAME + 32];
    MPI_Recv(message, MESSAGE, MPI_CHAR, from.MPI_SOURCE, TOLD, g->comm, MPI_STATUS_IGNORE);
    message[MESSAGE - 1] = '\0';
    spd_group_name(name, sizeof name, &g->base, from.MPI_SOURCE);
    snprintf(g->told, sizeof g->told, "%s stopped: %.*s", name, MESSAGE - 128, message);
    g->broken = 1;
  }
  return g->broken ? spd_fail(error, SPD_STATUS_DEVICE, "%s", g->told) : SPD_STATUS_OK;
}

static void mpi_tell(struct spd_group *base, const char *message) {
  struct mpi_group *g = mpi_of(base);
  static char text[MESSAGE];
  static MPI_Request requests[SPD_MOST_RANKS];
  static MPI_Status statuses[SPD_MOST_RANKS]; /* gcc takes MPICH's MPI_STATUSES_IGNORE for an array */
  int n = 0, sent = 0;
  if (process != getpid()) return;
  pthread_mutex_lock(&g->lock);
  if (!g->broken) {
    snprintf(text, sizeof text, "%s", message);
    snprintf(g->told, sizeof g->told, "this rank has stopped: %.*s", MESSAGE - 128, message);
    g->broken = 1;
    for (int rank = 0; rank < base->size; rank++)
      if (rank != base->rank && MPI_Isend(text, MESSAGE, MPI_CHAR, rank, TOLD, g->comm, &requests[n]) == MPI_SUCCESS) n++;
    for (const double until = now() + 2; !sent && now() < until;)
      if (MPI_Testall(n, requests, &sent, statuses) != MPI_SUCCESS) break;
  }
  pthread_mutex_unlock(&g->lock);
}

/* ---- exchange ---- */

/* Looks after the requests until they are done; with the lock only while it looks. */
static spd_status wait_for(struct mpi_group *g, MPI_Request requests[2], int with, double patience, struct spd_error *error) {
  const double begun = now();
  char name[SPD_HOST_NAME + 32];
  for (unsigned looks = 0;; looks++) {
    int done = 0, code;
    MPI_Status statuses[2];
    pthread_mutex_lock(&g->lock);
    spd_status status = SPD_STATUS_OK;
    code = MPI_Testall(2, requests, &done, statuses);
    if (!done || code != MPI_SUCCESS) status = listen_for_stops(g, error);
    if (status == SPD_STATUS_OK && (code != MPI_SUCCESS || (!done && now() - begun > patience))) {
      spd_group_name(name, sizeof name, &g->base, with);
      if (code != MPI_SUCCESS) {
        char what[SPD_HOST_NAME + 64];
        snprintf(what, sizeof what, "the connection to %s failed", name);
        status = failed(error, code, what);
      } else {
        status = spd_fail(error, SPD_STATUS_DEVICE, "%s has not answered for %.0f seconds; its process or the network between has stopped",
                          name, patience);
      }
      g->broken = 1;
      snprintf(g->told, sizeof g->told, "%.*s", MESSAGE - 1, error->message);
    }
    pthread_mutex_unlock(&g->lock);
    if (status != SPD_STATUS_OK || done) return status;
    pause_between(looks);
  }
}

static spd_status exchange_some(struct mpi_group *g, int with, const char *send, size_t n_send, char *receive, size_t n_receive,
                                double patience, struct spd_error *error) {
  MPI_Request requests[2] = {MPI_REQUEST_NULL, MPI_REQUEST_NULL};
  int code = MPI_SUCCESS;
  pthread_mutex_lock(&g->lock);
  const spd_status status = listen_for_stops(g, error);
  if (status == SPD_STATUS_OK) {
    if (n_receive) code = MPI_Irecv(receive, (int)n_receive, MPI_BYTE, with, DATA, g->comm, &requests[0]);
    if (n_send && code == MPI_SUCCESS) code = MPI_Isend(send, (int)n_send, MPI_BYTE, with, DATA, g->comm, &requests[1]);
  }
  pthread_mutex_unlock(&g->lock);
  SPD_TRY(status);
  if (code != MPI_SUCCESS) return failed(error, code, "a message could not be sent");
  const spd_status waited = wait_for(g, requests, with, patience, error);
  if (waited != SPD_STATUS_OK && requests[0] != MPI_REQUEST_NULL) { /* its memory will be freed */
    pthread_mutex_lock(&g->lock);
    MPI_Cancel(&requests[0]);
    MPI_Request_free(&requests[0]);
    pthread_mutex_unlock(&g->lock);
  }
  return waited;
}

static spd_status mpi_exchange(struct spd_group *base, int with, const void *send, size_t n_send, void *receive, size_t n_receive,
                               struct spd_error *error) {
  const char *from = send;
  char *to = receive;
  struct spd_error ignored;
  if (process != getpid()) return spd_fail(error, SPD_STATUS_UNSUPPORTED, "MPI cannot be used in a forked process");
  while (n_send || n_receive) {
    const size_t some = n_send < LARGEST ? n_send : LARGEST, other = n_receive < LARGEST ? n_receive : LARGEST;
    SPD_TRY(exchange_some(mpi_of(base), with, from, some, to, other, base->patience, error ? error : &ignored));
    from += some, n_send -= some, to += other, n_receive -= other;
  }
  return SPD_STATUS_OK;
}

/* ---- joining ---- */

/* R loads packages with symbols of their own; the plugins of Open MPI look for those of its library among all. */
static void make_global(void) {
  Dl_info info;
  if (dladdr((void *)&MPI_Init_thread, &info) && info.dli_fname) dlopen(info.dli_fname, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD);
}

static spd_status begin_mpi(int *begun_here, int *level, struct spd_error *error) {
  int begun = 0, over = 0, code;
  *begun_here = 0;
  MPI_Finalized(&over);
  if (over) return spd_fail(error, SPD_STATUS_UNSUPPORTED, "MPI has been finalised in this process, and cannot be begun again");
  MPI_Initialized(&begun);
  if (begun) return MPI_Query_thread(level) == MPI_SUCCESS ? SPD_STATUS_OK : spd_fail(error, SPD_STATUS_DEVICE, "MPI does not answer");
  make_global();
  code = MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, level);
  if (code != MPI_SUCCESS) return failed(error, code, "MPI could not be begun");
  *begun_here = 1;
  return SPD_STATUS_OK;
}

static spd_status make_group(int begun_here, int level, struct spd_error *error) {
  int rank, size, local;
  MPI_Comm comm, here;
  int code = MPI_Comm_dup(MPI_COMM_WORLD, &comm); /* others' messages are not ours */
  if (code != MPI_SUCCESS) return failed(error, code, "the processes could not be joined");
  MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
  MPI_Comm_rank(comm, &rank);
  MPI_Comm_size(comm, &size);
  MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &here);
  MPI_Comm_rank(here, &local);
  MPI_Comm_free(&here);
  if (size > SPD_MOST_RANKS || (size & (size - 1)))
    return spd_fail(error, SPD_STATUS_INVALID, "the number of ranks must be a power of two, up to %d, not %d", SPD_MOST_RANKS, size);
  static const struct spd_group_ops ops = {"mpi", mpi_exchange, mpi_tell};
  struct mpi_group *g = calloc(1, sizeof *g + (size_t)size * sizeof *g->hosts);
  if (!g) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate a group of %d ranks", size);
  g->base = (struct spd_group){.ops = &ops,
                               .rank = rank,
                               .size = size,
                               .local_rank = local,
                               .many_threads = level >= MPI_THREAD_SERIALIZED,
                               .hosts = (const char(*)[SPD_HOST_NAME])g->hosts};
  g->comm = comm;
  g->begun_here = begun_here;
  pthread_mutex_init(&g->lock, NULL);
  gethostname(g->hosts[rank], SPD_HOST_NAME - 1);
  group = g;
  process = getpid();
  return SPD_STATUS_OK;
}

/* The first words: names of hosts */
static spd_status meet(struct mpi_group *g, double patience, struct spd_error *error) {
  size_t *bounds = malloc(((size_t)g->base.size + 1) * sizeof *bounds);
  if (!bounds) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate a group of %d ranks", g->base.size);
  for (int rank = 0; rank <= g->base.size; rank++) bounds[rank] = (size_t)rank * SPD_HOST_NAME;
  g->base.patience = 10 * patience;
  const spd_status status = spd_group_gather(&g->base, g->hosts, bounds, error);
  free(bounds);
  return status;
}

spd_status spd_mpi_join(struct spd_group **out, double patience, struct spd_error *error) {
  *out = NULL;
  if (!group) {
    int begun_here, level;
    SPD_TRY(begin_mpi(&begun_here, &level, error));
    SPD_TRY(make_group(begun_here, level, error));
    SPD_TRY(meet(group, patience, error));
  }
  if (process != getpid()) return spd_fail(error, SPD_STATUS_UNSUPPORTED, "MPI cannot be used in a forked process");
  if (group->broken) return spd_fail(error, SPD_STATUS_DEVICE, "%s", group->told);
  group->base.patience = patience;
  *out = &group->base;
  return SPD_STATUS_OK;
}

void spd_mpi_leave(void) {
  int over = 0;
  if (!group || process != getpid()) return;
  MPI_Finalized(&over);
  if (over || !group->begun_here) return;
  if (group->broken) { /* those that can say so have time for it; nobody waits for the others */
    MPI_Request request = MPI_REQUEST_NULL;
    int done = 0;
    if (MPI_Ibarrier(group->comm, &request) == MPI_SUCCESS)
      for (const double until = now() + 5; !done && now() < until; pause_between(1000))
        if (MPI_Test(&request, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) break;
    if (!done) { /* where the launcher cannot be reached either, this would wait for it for ever */
      signal(SIGALRM, SIG_DFL);
      alarm(5);
      MPI_Abort(MPI_COMM_WORLD, 1);
    }
  }
  MPI_Finalize();
}
