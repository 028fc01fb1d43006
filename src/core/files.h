/* How a new file gets its name: whole, in one step. */
#ifndef SPD_CORE_FILES_H
#define SPD_CORE_FILES_H

/* Gives a file that was written beside `path` that name. Without overwrite an existing one is refused, by link() in one step; file
 * systems that have no hard links get a check and a rename. Returns 0, with errno, when it failed; the temporary name is gone only
 * when it did not. */
int spd_file_publish(const char *temporary, const char *path, int overwrite);

/* Makes the new name itself survive a power cut; where a folder cannot be synced there is nothing to be done. Changes `path`. */
void spd_file_sync_folder(char *path);

#endif
