/* A folder for a test's files: small ones, thousands of them. */
#ifndef SPD_TEST_FOLDER_H
#define SPD_TEST_FOLDER_H

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"

enum { PATH = 512 };

static char folder[PATH];

/* Valid until the next call */
static const char *in_folder(const char *name) {
  static char path[2 * PATH];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return path;
}

static void make_folder(const char *name) {
  const char *parent = getenv("TMPDIR");
  if (!parent) parent = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp"; /* in memory where possible */
  snprintf(folder, sizeof folder, "%s/%s-XXXXXX", parent, name);
  if (!mkdtemp(folder)) exit(2);
}

static void remove_folder(void) {
  DIR *dir = opendir(folder);
  for (struct dirent *entry; (entry = readdir(dir));)
    if (entry->d_name[0] != '.') remove(in_folder(entry->d_name));
  closedir(dir);
  rmdir(folder);
}

static void write_bytes(const char *name, const void *bytes, size_t n) {
  FILE *file = fopen(in_folder(name), "wb");
  if (!file || fwrite(bytes, 1, n, file) != n || fclose(file) != 0) exit(2);
}

static unsigned char *read_bytes(const char *path, size_t *n) {
  FILE *file = fopen(path, "rb");
  if (!file) exit(2);
  fseek(file, 0, SEEK_END);
  *n = (size_t)ftell(file);
  rewind(file);
  unsigned char *bytes = check_alloc(*n);
  if (fread(bytes, 1, *n, file) != *n) exit(2);
  fclose(file);
  return bytes;
}

#endif
