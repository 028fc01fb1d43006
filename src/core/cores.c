/* How many cores a process may keep busy. */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* sched_getaffinity */
#endif
#include "core/threads.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

#if defined(__linux__)
/* Cores' worth of time in a cpu.max ("quota period", or "max period" for no limit), rounded up; 0 where there is no such limit */
static long quota_of(const char *path) {
  long quota = 0, period = 0;
  FILE *file = fopen(path, "r");
  if (!file) return 0;
  const int found = fscanf(file, "%ld %ld", &quota, &period);
  fclose(file);
  return found == 2 && quota > 0 && period > 0 ? (quota + period - 1) / period : 0;
}

/* The smallest quota of this process's control group and those above it (version 2); 0 for none */
static long smallest_quota(void) {
  char group[512] = "", path[640];
  long smallest = 0;
  FILE *file = fopen("/proc/self/cgroup", "r");
  if (!file) return 0;
  for (char line[600]; fgets(line, sizeof line, file);)
    if (strncmp(line, "0::", 3) == 0) {
      line[strcspn(line, "\n")] = '\0';
      snprintf(group, sizeof group, "%.500s", line + 3);
    }
  fclose(file);
  for (;;) {
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", strcmp(group, "/") == 0 ? "" : group);
    const long quota = quota_of(path);
    if (quota > 0 && (smallest == 0 || quota < smallest)) smallest = quota;
    char *above = strrchr(group, '/');
    if (!above) return smallest;
    *above = '\0';
  }
}

int spd_cores(void) {
  cpu_set_t mask;
  /* a machine of more processors than the mask holds makes the call fail: then all that are online */
  long cores = sched_getaffinity(0, sizeof mask, &mask) == 0 ? CPU_COUNT(&mask) : sysconf(_SC_NPROCESSORS_ONLN);
  const long quota = smallest_quota();
  if (quota > 0 && quota < cores) cores = quota;
  return cores < 1 ? 1 : (int)cores;
}
#elif defined(__unix__) || defined(__APPLE__)
int spd_cores(void) {
  const long cores = sysconf(_SC_NPROCESSORS_ONLN);
  return cores < 1 ? 1 : (int)cores;
}
#else
int spd_cores(void) { return 1; }
#endif
