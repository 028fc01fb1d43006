#include "core/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int spd_file_publish(const char *temporary, const char *path, int overwrite) {
  struct stat info;
  if (overwrite) return rename(temporary, path) == 0;
  if (link(temporary, path) == 0) return unlink(temporary), 1;
  if (errno == EEXIST) return 0;
  if (lstat(path, &info) == 0) return errno = EEXIST, 0;
  return rename(temporary, path) == 0;
}

void spd_file_sync_folder(char *path) {
  char *slash = strrchr(path, '/');
  if (slash) slash[slash == path] = 0;
  int descriptor = open(slash ? path : ".", O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return;
  (void)!fsync(descriptor);
  close(descriptor);
}
