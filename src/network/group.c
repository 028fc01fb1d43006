#include "network/group.h"

#include <stdio.h>

void spd_group_name(char *name, size_t size, const struct spd_group *group, int rank) {
  snprintf(name, size, "rank %d (%s)", rank, group->hosts ? group->hosts[rank] : "?");
}

/* Ranks first ... first + width - 1 have each other's bytes; in every round they learn those of their neighbours. */
spd_status spd_group_gather(struct spd_group *group, void *all, const size_t *bounds, struct spd_error *error) {
  char *bytes = all;
  for (int width = 1; width < group->size; width *= 2) {
    const int first = group->rank / width * width, theirs = first ^ width;
    const size_t have = bounds[first + width] - bounds[first], want = bounds[theirs + width] - bounds[theirs];
    SPD_TRY(group->ops->exchange(group, group->rank ^ width, bytes + bounds[first], have, bytes + bounds[theirs], want, error));
  }
  return SPD_STATUS_OK;
}

/* Down: of the elements from ... to - 1 that a rank and its partner have, one keeps the first half and one the second, each adding the
 * other's. Up again: they exchange what they kept. */
spd_status spd_group_sum(struct spd_group *group, float *x, float *scratch, size_t count, struct spd_error *error) {
  size_t from[32], to[32];
  int level = 0;
  from[0] = 0, to[0] = count;
  for (int width = 1; width < group->size; width *= 2, level++) {
    const size_t middle = from[level] + (to[level] - from[level]) / 2;
    const int second = (group->rank & width) != 0;
    const size_t give = second ? from[level] : middle, given = second ? middle - from[level] : to[level] - middle;
    const size_t first = second ? middle : from[level], last = second ? to[level] : middle;
    SPD_TRY(group->ops->exchange(group, group->rank ^ width, x + give, given * sizeof *x, scratch, (last - first) * sizeof *x, error));
    for (size_t i = first; i < last; i++) x[i] += scratch[i - first];
    from[level + 1] = first, to[level + 1] = last;
  }
  for (int width = group->size / 2; width >= 1; width /= 2, level--) {
    const int second = (group->rank & width) != 0;
    const size_t have = to[level] - from[level];
    const size_t want = second ? from[level] - from[level - 1] : to[level - 1] - to[level], at = second ? from[level - 1] : to[level];
    SPD_TRY(group->ops->exchange(group, group->rank ^ width, x + from[level], have * sizeof *x, x + at, want * sizeof *x, error));
  }
  return SPD_STATUS_OK;
}
