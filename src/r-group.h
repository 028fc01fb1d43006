/* The group that ffi_group_join() has joined; NULL before */
#ifndef SPD_R_GROUP_H
#define SPD_R_GROUP_H

#include "network/group.h"

struct spd_group *r_group(void);

#endif
