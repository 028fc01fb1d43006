/* The pool of threads: each piece once, numbers of threads that nobody shares, loops within pieces, several callers at once, a stop and a
 * new start, children of a fork. */
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "core/threads.h"

enum { PIECES = 2000, MOST_THREADS = 7, FORKS = 200 };

struct counts {
  int *seen;  /* (pieces) */
  int *busy;  /* (threads): 1 while a piece runs there */
  int *wrong; /* threads that were met twice at a time, or out of range */
  int threads;
};

static void count(const void *context, size_t piece, int thread) {
  const struct counts *c = context;
  if (thread < 0 || thread >= c->threads || __atomic_exchange_n(&c->busy[thread], 1, __ATOMIC_RELAXED))
    __atomic_add_fetch(c->wrong, 1, __ATOMIC_RELAXED);
  __atomic_add_fetch(&c->seen[piece], 1, __ATOMIC_RELAXED);
  __atomic_store_n(&c->busy[thread], 0, __ATOMIC_RELAXED);
}

/* The wrong counts of a loop */
static int run(int threads, size_t pieces) {
  int *seen = check_alloc(pieces * sizeof *seen), busy[MOST_THREADS] = {0}, wrong = 0;
  const struct counts counts = {seen, busy, &wrong, threads};
  spd_parallel(threads, pieces, count, &counts);
  for (size_t i = 0; i < pieces; i++) wrong += seen[i] != 1;
  free(seen);
  return wrong;
}

static void *run_many(void *failures) {
  for (int i = 0; i < 200; i++) *(int *)failures += run(1 + i % 4, (size_t)i);
  return NULL;
}

struct inner {
  int sums[PIECES];
};

static void add_three(const void *context, size_t piece, int thread) {
  (void)thread;
  __atomic_add_fetch(*(int *const *)context, (int)piece + 1, __ATOMIC_RELAXED);
}

static void nested(const void *context, size_t piece, int thread) {
  (void)thread;
  int *sum = ((struct inner *)context)->sums + piece;
  spd_parallel(3, 3, add_three, &sum);
}

static void write_file(const char *folder, const char *name, const char *text) {
  char path[256];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "w");
  if (!file || fputs(text, file) < 0 || fclose(file) != 0) exit(2);
}

/* A tree of control groups: a job of 1.5 cores in a slice of 4, or of version 1 */
static void test_quotas(void) {
  char root[] = "/tmp/spender-groups-XXXXXX", groups[64], command[64];
  if (!mkdtemp(root)) exit(2);
  snprintf(groups, sizeof groups, "%s/groups", root);
  snprintf(command, sizeof command, "rm -rf %s", root);
  const char *const folders[] = {"slice", "slice/job", "cpu,cpuacct", "cpu,cpuacct/job"};
  for (int i = 0; i < 4; i++) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", root, folders[i]);
    if (mkdir(path, 0700) != 0) exit(2);
  }
  write_file(root, "groups", "0::/slice/job\n");
  CHECK(spd_core_quota(groups, root) == 0, "a quota where there is none");
  write_file(root, "slice/cpu.max", "400000 100000\n");
  CHECK(spd_core_quota(groups, root) == 4, "the slice's quota is %d cores", spd_core_quota(groups, root));
  write_file(root, "slice/job/cpu.max", "150000 100000\n");
  CHECK(spd_core_quota(groups, root) == 2, "the job's quota is %d cores", spd_core_quota(groups, root));
  write_file(root, "slice/job/cpu.max", "max 100000\n");
  CHECK(spd_core_quota(groups, root) == 4, "a job without one has its slice's");
  write_file(root, "groups", "12:cpuset:/job\n4:cpu,cpuacct:/job\n1:name=systemd:/job\n");
  CHECK(spd_core_quota(groups, root) == 0, "a quota of version 1 where there is none");
  write_file(root, "cpu,cpuacct/job/cpu.cfs_period_us", "100000\n");
  write_file(root, "cpu,cpuacct/job/cpu.cfs_quota_us", "-1\n");
  CHECK(spd_core_quota(groups, root) == 0, "-1 is no quota");
  write_file(root, "cpu,cpuacct/job/cpu.cfs_quota_us", "300000\n");
  CHECK(spd_core_quota(groups, root) == 3, "the quota of version 1 is %d cores", spd_core_quota(groups, root));
  CHECK(spd_core_quota("/nowhere", root) == 0, "no file of groups");
  if (system(command) != 0) exit(2);
}

/* A child of a fork that happens while threads wake up or fall asleep must not wait for them. */
static void test_forks(void) {
  int bad = 0;
  for (int round = 0; round < FORKS && bad == 0; round++) {
    bad += run(4, (size_t)round % 9);
    if (round % 10 == 0) usleep(2000); /* the threads sleep */
    const pid_t child = fork();
    if (child == 0) {
      alarm(20); /* ends a child that waits for what it does not have */
      int wrong = run(1, 9) + (spd_threads(4, 100) != 1);
      spd_parallel(4, 0, count, NULL);
      spd_threads_stop();
      int seen[100] = {0}, busy[1] = {0};
      const struct counts counts = {seen, busy, &wrong, 1};
      spd_parallel(4, 100, count, &counts);
      for (int i = 0; i < 100; i++) wrong += seen[i] != 1;
      _exit(wrong ? 1 : 0);
    }
    int status = 1;
    bad += child < 0 || waitpid(child, &status, 0) != child || status != 0;
    CHECK(bad == 0, "forked child %d: status %d", round, status);
  }
}

int main(void) {
  int wrong = 0;
  for (int threads = 1; threads <= MOST_THREADS; threads++)
    for (size_t pieces = 0; pieces < 40; pieces++) wrong += run(threads, pieces);
  CHECK(wrong == 0, "%d pieces or threads are wrong in short loops", wrong);
  for (int round = 0; round < 50; round++) wrong += run(3, PIECES);
  CHECK(wrong == 0, "%d pieces or threads are wrong in long loops", wrong);

  struct inner *inner = check_alloc(sizeof *inner);
  spd_parallel(4, PIECES, nested, inner);
  for (int i = 0; i < PIECES; i++) wrong += inner->sums[i] != 6;
  CHECK(wrong == 0, "%d loops within pieces are wrong", wrong);
  free(inner);

  pthread_t callers[3];
  int failures[3] = {0};
  for (int i = 0; i < 3; i++) CHECK(pthread_create(&callers[i], NULL, run_many, &failures[i]) == 0, "no thread");
  for (int i = 0; i < 3; i++) pthread_join(callers[i], NULL);
  CHECK(failures[0] + failures[1] + failures[2] == 0, "%d of the loops of several callers are wrong",
        failures[0] + failures[1] + failures[2]);

  spd_threads_stop();
  spd_threads_stop();
  CHECK(run(3, PIECES) == 0, "a loop after a stop is wrong");
  usleep(20000); /* the threads sleep */
  CHECK(run(3, PIECES) == 0, "a loop after a rest is wrong");

  CHECK(spd_threads(5, 3) == 3 && spd_threads(5, 0) == 1 && spd_threads(0, 9) == 1 && spd_threads(2, 9) == 2, "numbers of threads");
  test_forks();
  CHECK(run(3, PIECES) == 0, "a loop after a fork is wrong");
  spd_threads_stop();
  CHECK(spd_cores() >= 1, "%d cores", spd_cores());
  test_quotas();
  return check_end();
}
