/* A pool of threads. A job is a parallel loop; idle threads join the newest job that still has pieces to start. */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* RUSAGE_THREAD */
#endif
#include "core/threads.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

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

/* ---- company: where other processes keep the cores busy, a thread that has lost its core within a piece is waited for, and several
 * threads can be slower than one. Each thread that calls measures its loops for a while, and keeps them to itself for a longer one if the
 * others gained too little. ---- */

#ifdef RUSAGE_THREAD
enum { MEASURES = 1 };
#else
enum { MEASURES = 0 };
#endif
static const double measured = 0.02, kept = 0.1, least_gain = 1.1; /* seconds, and of this thread's time alone over that of all */

static _Thread_local struct {
  int within;              /* pieces of loops that are on their way: the other threads have pieces, too */
  int alone;               /* loops are this thread's own, until it measures again */
  double until;            /* then it measures */
  double all, alone_would; /* of the loops so far: seconds that they took, and that this thread alone would have taken */
} company;

struct moment {
  double seconds, processor;
  long waits; /* for files, locks, ...: not for the processor */
};

static double clock_seconds(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static struct moment moment_now(void) {
  struct moment s = {.seconds = clock_seconds(CLOCK_MONOTONIC), .processor = clock_seconds(CLOCK_THREAD_CPUTIME_ID)};
#ifdef RUSAGE_THREAD
  struct rusage usage;
  if (getrusage(RUSAGE_THREAD, &usage) == 0) s.waits = usage.ru_nvcsw;
#endif
  return s;
}

/* This thread's part of a loop has ended: `own` of its pieces. A loop whose pieces wait for something else than the processor tells
 * nothing. */
static void note_loop(const struct moment *begun, const struct moment *ended, size_t own, size_t pieces) {
  const double now = clock_seconds(CLOCK_MONOTONIC);
  if (own == 0 || ended->waits != begun->waits) return;
  company.all += now - begun->seconds;
  company.alone_would += (ended->processor - begun->processor) * (double)pieces / (double)own;
  if (company.all < measured) return;
  company.alone = company.alone_would < least_gain * company.all;
  company.until = now + kept;
  company.all = company.alone_would = 0;
}

/* ---- the loop ---- */

/* Returns the number of pieces that it took. */
static size_t take_pieces(struct job *job, int thread) {
  size_t taken = 0;
  company.within++;
  for (;; taken++) {
    const size_t piece = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED);
    if (piece >= job->pieces) break;
    job->work(job->context, piece, thread);
  }
  company.within--;
  return taken;
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
  const int measures = MEASURES && helpers > 0 && !company.within && clock_seconds(CLOCK_MONOTONIC) >= company.until;
  if (helpers == 0 || (company.alone && !measures)) {
    for (size_t piece = 0; piece < pieces; piece++) work(context, piece, 0);
    return;
  }
  struct moment begun = {0}, ended = {0};
  if (measures) begun = moment_now();
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

  const size_t own = take_pieces(&job, 0);
  if (measures) ended = moment_now();

  for (int look = 0; look < LOOKS && __atomic_load_n(&job.helping, __ATOMIC_ACQUIRE) > 0; look++) RELAX();
  pthread_mutex_lock(&mutex);
  struct job **place = &jobs;
  while (*place != &job) place = &(*place)->below;
  *place = job.below; /* no thread can join any more */
  while (job.helping > 0) pthread_cond_wait(&left, &mutex);
  pthread_mutex_unlock(&mutex);
  if (measures) note_loop(&begun, &ended, own, pieces);
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
