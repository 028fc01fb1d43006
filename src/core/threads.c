/* A pool of threads. A job is a parallel loop; idle threads join the newest job that still has pieces to start. */
#include "core/threads.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#if defined(__x86_64__) || defined(__i386__)
#define RELAX() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define RELAX() __asm__ volatile("yield" ::: "memory")
#else
#define RELAX() __asm__ volatile("" ::: "memory")
#endif

/* Polls before a thread goes to sleep, some 20 to 50 microseconds: the next stage usually starts within that time, and waking up takes as
 * long. */
enum { LOOKS = 1000 };

struct job {
  spd_piece *work;
  const void *context;
  size_t pieces, next; /* next: the first piece that has not been started */
  int wanted;          /* number of further threads that may join; also the index that the next one gets */
  int helping;         /* threads that have joined and not left */
  struct job *below;
};

struct worker {
  pthread_t thread;
  struct worker *next;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* of all that follows */
static pthread_cond_t posted = PTHREAD_COND_INITIALIZER, left = PTHREAD_COND_INITIALIZER;
static struct job *jobs; /* the newest first */
static struct worker *workers;
static int n_workers, stopping;
static unsigned posts; /* counts jobs, for threads that look without the mutex */

/* ---- fork(): the child has a copy of this memory, but none of the threads ---- */

static int forked;

static void after_fork(void) {
  forked = 1;
  jobs = NULL, workers = NULL, n_workers = 0;
  /* Their owner and those who wait do not exist in this process; a broadcast would wait for them. */
  pthread_mutex_init(&mutex, NULL);
  pthread_cond_init(&posted, NULL);
  pthread_cond_init(&left, NULL);
}
__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(NULL, NULL, after_fork); }

int spd_threads(int wanted, size_t pieces) {
  if (forked || wanted < 1) return 1;
  return pieces < (size_t)wanted ? (int)(pieces ? pieces : 1) : wanted;
}

/* ---- the loop ---- */

static void take_pieces(struct job *job, int thread) {
  for (;;) {
    const size_t piece = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED);
    if (piece >= job->pieces) return;
    job->work(job->context, piece, thread);
  }
}

static struct job *job_with_room(void) {
  struct job *job = jobs;
  while (job && (job->wanted == 0 || __atomic_load_n(&job->next, __ATOMIC_RELAXED) >= job->pieces)) job = job->below;
  return job;
}

static void *work_until_stopped(void *nothing) {
  pthread_mutex_lock(&mutex);
  while (!stopping) {
    struct job *job = job_with_room();
    if (job) {
      const int thread = job->wanted--;
      __atomic_add_fetch(&job->helping, 1, __ATOMIC_RELAXED);
      pthread_mutex_unlock(&mutex);
      take_pieces(job, thread);
      pthread_mutex_lock(&mutex);
      if (__atomic_sub_fetch(&job->helping, 1, __ATOMIC_RELEASE) == 0) pthread_cond_broadcast(&left);
      continue;
    }
    const unsigned seen = posts;
    pthread_mutex_unlock(&mutex);
    for (int look = 0; look < LOOKS && __atomic_load_n(&posts, __ATOMIC_RELAXED) == seen; look++) RELAX();
    pthread_mutex_lock(&mutex);
    if (posts == seen && !stopping) pthread_cond_wait(&posted, &mutex);
  }
  pthread_mutex_unlock(&mutex);
  return nothing;
}

int spd_thread_start(pthread_t *thread, void *(*run)(void *), void *argument) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int failed = pthread_create(thread, NULL, run, argument);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return !failed;
}

/* With the mutex */
static void start_worker(void) {
  struct worker *worker = malloc(sizeof *worker);
  if (!worker) return;
  if (!spd_thread_start(&worker->thread, work_until_stopped, NULL)) {
    free(worker);
    return;
  }
  worker->next = workers;
  workers = worker;
  n_workers++;
}

void spd_parallel(int threads, size_t pieces, spd_piece *work, const void *context) {
  const int helpers = spd_threads(threads, pieces) - 1;
  if (helpers == 0) {
    for (size_t piece = 0; piece < pieces; piece++) work(context, piece, 0);
    return;
  }
  struct job job = {.work = work, .context = context, .pieces = pieces, .wanted = helpers};
  pthread_mutex_lock(&mutex);
  for (int missing = helpers - n_workers; missing > 0; missing--) start_worker();
  job.below = jobs;
  jobs = &job;
  __atomic_add_fetch(&posts, 1, __ATOMIC_RELAXED);
  pthread_mutex_unlock(&mutex);
  if (helpers == 1)
    pthread_cond_signal(&posted);
  else
    pthread_cond_broadcast(&posted);

  take_pieces(&job, 0);

  for (int look = 0; look < LOOKS && __atomic_load_n(&job.helping, __ATOMIC_ACQUIRE) > 0; look++) RELAX();
  pthread_mutex_lock(&mutex);
  struct job **place = &jobs;
  while (*place != &job) place = &(*place)->below;
  *place = job.below; /* no thread can join any more */
  while (job.helping > 0) pthread_cond_wait(&left, &mutex);
  pthread_mutex_unlock(&mutex);
}

void spd_threads_stop(void) {
  pthread_mutex_lock(&mutex);
  struct worker *worker = workers;
  workers = NULL, n_workers = 0, stopping = 1;
  __atomic_add_fetch(&posts, 1, __ATOMIC_RELAXED);
  pthread_cond_broadcast(&posted);
  pthread_mutex_unlock(&mutex);
  while (worker) {
    struct worker *next = worker->next;
    pthread_join(worker->thread, NULL);
    free(worker);
    worker = next;
  }
  stopping = 0;
}
