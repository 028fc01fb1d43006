/* Architecture and weights between R and the core. */
#ifndef SPD_R_NETWORK_H
#define SPD_R_NETWORK_H

#include "network/network.h"
#include "r-util.h"

/* Reads an architecture list (see ?read_model). Raises spender_error_invalid where a field is missing or of the wrong kind;
 * whether the sizes fit together is for spd_network_init. Allocates nothing that an R error could leak. */
void r_architecture(SEXP list, struct spd_architecture *architecture);

/* Both in one; raises. */
void r_network(SEXP list, struct spd_network *network);

/* The float block behind a raw vector of weights; raises where its length is not network->size floats. */
const float *r_weights(SEXP weights, const struct spd_network *network);

#endif
