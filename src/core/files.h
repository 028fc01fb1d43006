/* Files through descriptors: whole reads and writes, and new files that appear complete or not at all. Functions that can fail return 0 and
 * leave errno set. */
#ifndef SPD_CORE_FILES_H
#define SPD_CORE_FILES_H

#include <stddef.h>
#include <stdint.h>

/* The last component of a path; points into it. */
const char *spd_file_name(const char *path);

/* Reads n bytes at `offset`. Returns 1; 0 if the file ends before them; -1 with errno set. */
int spd_file_read(void *to, size_t n, uint64_t offset, int file);
/* Writes n bytes at `offset`. */
int spd_file_write(int file, const void *from, size_t n, uint64_t offset);

/* Locks an open file for this descriptor until it is closed, or its program ends. Returns 0 if another has it locked; 1 also where the file
 * system has no locks. */
int spd_file_lock(int file);
/* Whether a file is there and locked */
int spd_file_is_locked(const char *path);

/* A new file that is written beside its final path under a temporary name. */
struct spd_new_file {
  int descriptor; /* open for reading and writing */
  char *temporary;
  const char *path; /* the caller's */
};
/* Creates it; the mode follows the umask. */
int spd_file_begin(struct spd_new_file *file, const char *path);
/* Flushes and closes it and gives it its final name in one step. Without `overwrite` an existing file is refused (EEXIST): by link(), or,
 * on file systems without hard links, by a check before rename(). */
int spd_file_publish(struct spd_new_file *file, int overwrite);
/* Closes and removes what was written. Keeps errno. Does nothing after spd_file_publish() or a failed spd_file_begin(). */
void spd_file_discard(struct spd_new_file *file);

#endif
