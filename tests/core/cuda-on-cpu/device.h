/* A GPU for tests, on the CPU: as much of the CUDA runtime and of cuBLAS as the backend calls. Kernels are compiled as C++ and
 * run block after block, thread after thread; __syncthreads() switches to the next thread. What a real device forgives or does
 * only now and then happens here on every run:
 *   - device memory cannot be touched by the host, has poisoned borders (under ASan) and starts as NaN;
 *   - streams are as late or as early as they may be: see device_streams;
 *   - threads run in an order of choice: a missing barrier changes results;
 *   - what a stream records is not run, and runs later with the arguments of then; what must not be called meanwhile fails;
 *   - any call can be made to fail;
 *   - any call in a forked child ends it. */
#ifndef SPD_TEST_DEVICE_H
#define SPD_TEST_DEVICE_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Which stream runs what it is given at once, and which only when somebody waits for it; in the order of their making. */
typedef enum { DEVICE_ALL_EARLY = 0, DEVICE_FIRST_LATE, DEVICE_SECOND_LATE } device_streams;
/* The order of a block's threads */
typedef enum { DEVICE_FORWARD = 0, DEVICE_BACKWARD, DEVICE_SHUFFLED } device_threads;

void device_set(device_streams streams, device_threads threads);
void device_set_memory(size_t bytes);
/* Shared memory that a block may have; a real one's by default */
void device_set_shared(size_t bytes);
/* The call after `calls` more calls fails, and only it; -1: none. */
void device_set_failure(long calls);
/* Calls that are still to come before the failure; negative when it has happened. */
long device_failure(void);
/* Recordings that have been launched */
size_t device_replays(void);
/* Ranks that share this device are threads, of which one runs at a time: called where one of them waits for another. */
extern void (*device_yield)(void);
/* Opens (1) or closes (0) its memory for the host */
void device_memory(int open);

/* NCCL on this device: its call after `calls` more fails, and only it, -1: none; the calls still to come before; communicators that nobody
 * has given back; sums that a rank has asked for since they were forgotten. */
void nccl_set_failure(long calls);
long nccl_failure(void);
long nccl_open(void);
long nccl_sums_of(int rank);
void nccl_forget_sums(void);
/* Bytes of device memory, pinned buffers, streams, events, handles and recordings that nobody has given back */
size_t device_leaks(void);

#ifdef __cplusplus
}
#endif

#endif
