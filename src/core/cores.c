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
enum { PATH = 1200 };

/* Cores' worth of time, rounded up; 0 for no limit */
static long cores_of(long quota, long period) { return quota > 0 && period > 0 ? (quota + period - 1) / period : 0; }

static int read_numbers(long *first, long *second, const char *folder, const char *name) {
  char path[PATH + 64];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "r");
  if (!file) return 0;
  const int found = fscanf(file, "%ld %ld", first, second); /* "max" is no number */
  fclose(file);
  return found > 0 ? found : 0;
}

/* Of one group: version 2 has "quota period" in cpu.max, version 1 a file for each */
static long quota_of(const char *folder) {
  long quota = 0, period = 0, none = 0;
  if (read_numbers(&quota, &period, folder, "cpu.max") == 2) return cores_of(quota, period);
  if (!read_numbers(&quota, &none, folder, "cpu.cfs_quota_us") || !read_numbers(&period, &none, folder, "cpu.cfs_period_us")) return 0;
  return cores_of(quota, period);
}

/* The smallest of a group and those above it */
static long smallest_quota(const char *root, const char *group) {
  char folder[PATH];
  long smallest = 0;
  snprintf(folder, sizeof folder, "%.600s%.590s", root, strcmp(group, "/") == 0 ? "" : group);
  for (;;) {
    const long quota = quota_of(folder);
    if (quota > 0 && (smallest == 0 || quota < smallest)) smallest = quota;
    char *above = strrchr(folder, '/');
    if (!above || strlen(folder) <= strlen(root)) return smallest;
    *above = '\0';
  }
}

int spd_core_quota(const char *groups, const char *root) {
  long smallest = 0;
  FILE *file = fopen(groups, "r");
  if (!file) return 0;
  for (char line[600]; fgets(line, sizeof line, file);) { /* "number:controllers:group"; version 2 has no controllers */
    char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL, base[PATH];
    if (!group) continue;
    line[strcspn(line, "\n")] = '\0';
    *group++ = '\0';
    controllers++;
    if (controllers[0] == '\0')
      snprintf(base, sizeof base, "%.1000s", root);
    else if (strcmp(controllers, "cpu") == 0 || strncmp(controllers, "cpu,", 4) == 0 || strstr(controllers, ",cpu,"))
      snprintf(base, sizeof base, "%.600s/%.500s", root, controllers);
    else
      continue;
    const long quota = smallest_quota(base, group);
    if (quota > 0 && (smallest == 0 || quota < smallest)) smallest = quota;
  }
  fclose(file);
  return (int)smallest;
}

int spd_cores(void) {
  cpu_set_t mask;
  /* a machine of more processors than the mask holds makes the call fail: then all that are online */
  long cores = sched_getaffinity(0, sizeof mask, &mask) == 0 ? CPU_COUNT(&mask) : sysconf(_SC_NPROCESSORS_ONLN);
  const int quota = spd_core_quota("/proc/self/cgroup", "/sys/fs/cgroup");
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
#if !defined(__linux__)
int spd_core_quota(const char *groups, const char *root) {
  (void)groups, (void)root;
  return 0;
}
#endif
