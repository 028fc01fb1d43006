#define _DEFAULT_SOURCE
#define _DARWIN_C_SOURCE
#define _FILE_OFFSET_BITS 64

#include "core/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { AT_ONCE = 1 << 30 }; /* bytes; Linux transfers no more than 2 GiB in one call */

const char *spd_file_name(const char *path) {
  const char *name = path;
  for (const char *p = path; *p; p++)
    if ((*p == '/' || *p == '\\') && p[1]) name = p + 1;
  return name;
}

int spd_file_read(void *to, size_t n, uint64_t offset, int file) {
  for (char *at = to; n > 0;) {
    const ssize_t done = pread(file, at, n < AT_ONCE ? n : AT_ONCE, (off_t)offset);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return done < 0 ? -1 : 0;
    at += done, offset += (uint64_t)done, n -= (size_t)done;
  }
  return 1;
}

int spd_file_write(int file, const void *from, size_t n, uint64_t offset) {
  for (const char *at = from; n > 0;) {
    const ssize_t done = pwrite(file, at, n < AT_ONCE ? n : AT_ONCE, (off_t)offset);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return 0;
    at += done, offset += (uint64_t)done, n -= (size_t)done;
  }
  return 1;
}

int spd_file_lock(int file) { return flock(file, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK; }

int spd_file_is_locked(const char *path) {
  const int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) return 0;
  const int locked = !spd_file_lock(file);
  close(file);
  return locked;
}

/* ---- new files ---- */

int spd_file_begin(struct spd_new_file *file, const char *path) {
  const size_t size = strlen(path) + 64;
  file->descriptor = -1;
  file->path = path;
  file->temporary = malloc(size);
  for (unsigned attempt = 0; file->temporary && attempt < 1000; attempt++) {
    snprintf(file->temporary, size, "%s.tmp-%ld-%u", path, (long)getpid(), attempt);
    file->descriptor = open(file->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file->descriptor >= 0) return 1;
    if (errno != EEXIST) break;
  }
  free(file->temporary);
  file->temporary = NULL;
  return 0;
}

static int give_name(const char *temporary, const char *path, int overwrite) {
  struct stat info;
  if (overwrite) return rename(temporary, path) == 0;
  if (link(temporary, path) == 0) return unlink(temporary), 1;
  if (errno == EEXIST) return 0;
  if (lstat(path, &info) == 0) return errno = EEXIST, 0;
  return rename(temporary, path) == 0;
}

/* Makes the new name survive a power failure. Errors are ignored: some file systems cannot sync folders. Overwrites `path`. */
static void sync_folder(char *path) {
  char *slash = strrchr(path, '/');
  if (slash) slash[slash == path] = 0;
  const int descriptor = open(slash ? path : ".", O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return;
  (void)!fsync(descriptor);
  close(descriptor);
}

int spd_file_publish(struct spd_new_file *file, int overwrite) {
  const int flushed = fsync(file->descriptor) == 0, reason = errno;
  const int closed = close(file->descriptor) == 0;
  file->descriptor = -1;
  if (!flushed) errno = reason;
  if (!flushed || !closed || !give_name(file->temporary, file->path, overwrite)) return spd_file_discard(file), 0;
  strcpy(file->temporary, file->path);
  sync_folder(file->temporary);
  free(file->temporary);
  file->temporary = NULL;
  return 1;
}

void spd_file_discard(struct spd_new_file *file) {
  const int reason = errno;
  if (file->descriptor >= 0) close(file->descriptor);
  if (file->temporary) {
    unlink(file->temporary);
    free(file->temporary);
  }
  file->descriptor = -1;
  file->temporary = NULL;
  errno = reason;
}
