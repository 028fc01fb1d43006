#include "network/group.h"

#include <stdio.h>

void spd_group_name(char *name, size_t size, const struct spd_group *group, int rank) {
  snprintf(name, size, "rank %d (%s)", rank, group->hosts ? group->hosts[rank] : "?");
}

static spd_status no_exchange(struct spd_group *group, int with, const void *send, size_t send_bytes, void *receive, size_t receive_bytes,
                              struct spd_error *error) {
  (void)group, (void)with, (void)send, (void)send_bytes, (void)receive, (void)receive_bytes;
  return spd_fail(error, SPD_STATUS_INVALID, "internal: there is no other rank");
}
static void no_tell(struct spd_group *group, const char *message) { (void)group, (void)message; }

struct spd_group *spd_group_alone(void) {
  static const struct spd_group_ops ops = {"alone", no_exchange, no_tell};
  static const char host[1][SPD_HOST_NAME] = {"this host"};
  static struct spd_group alone = {.ops = &ops, .size = 1, .hosts = host};
  return &alone;
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
