/* Kills a program at a chosen point of writing a file. Preloaded (LD_PRELOAD); KILL_AT=CALL:N in the environment says which:
 *   write:N    half of the N-th write() or pwrite() of more than 1000 bytes is done, then SIGKILL
 *   fsync:N    SIGKILL before the N-th fsync()
 *   rename:N   SIGKILL before the N-th rename()
 * Only writes to files whose name holds KILL_IN count.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int due(const char *call) {
  static int counts[3];
  const char *wanted = getenv("KILL_AT");
  size_t n = strlen(call);
  if (!wanted || strncmp(wanted, call, n) != 0 || wanted[n] != ':') return 0;
  return ++counts[call[0] == 'w' ? 0 : call[0] == 'f' ? 1 : 2] == atoi(wanted + n + 1);
}

static int is_wanted(int descriptor) {
  char link[64], name[4096];
  const char *in = getenv("KILL_IN");
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t n = readlink(link, name, sizeof name - 1);
  if (n < 0) return 0;
  name[n] = '\0';
  return in && strstr(name, in) != NULL;
}

typedef ssize_t write_call(int, const void *, size_t);
typedef ssize_t pwrite_call(int, const void *, size_t, off_t);

ssize_t write(int descriptor, const void *bytes, size_t n) {
  write_call *real = (write_call *)dlsym(RTLD_NEXT, "write");
  if (n > 1000 && is_wanted(descriptor) && due("write")) {
    (void)!real(descriptor, bytes, n / 2);
    raise(SIGKILL);
  }
  return real(descriptor, bytes, n);
}

ssize_t pwrite(int descriptor, const void *bytes, size_t n, off_t offset) {
  pwrite_call *real = (pwrite_call *)dlsym(RTLD_NEXT, "pwrite");
  if (n > 1000 && is_wanted(descriptor) && due("write")) {
    (void)!real(descriptor, bytes, n / 2, offset);
    raise(SIGKILL);
  }
  return real(descriptor, bytes, n, offset);
}

ssize_t pwrite64(int descriptor, const void *bytes, size_t n, off_t offset) { return pwrite(descriptor, bytes, n, offset); }

int fsync(int descriptor) {
  int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
  if (is_wanted(descriptor) && due("fsync")) raise(SIGKILL);
  return real(descriptor);
}

int rename(const char *from, const char *to) {
  int (*real)(const char *, const char *) = (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename");
  const char *in = getenv("KILL_IN");
  if (in && strstr(to, in) && due("rename")) raise(SIGKILL);
  return real(from, to);
}
