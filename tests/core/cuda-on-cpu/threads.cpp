/* Kernels: every thread of a block has a stack of its own; barriers, and exchanges within a warp, switch to the next thread. Nearly all the
 * time of a played device passes here, so this file is compiled without sanitizers, whatever the kernels are compiled with. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <vector>

#include "cuda_runtime.h"
#include "device.h"

dim3 threadIdx, blockIdx, blockDim, gridDim;
char *device_shared;
int device_order;

static const size_t most_threads = 1024, warp = 32, stack_bytes = 128 << 10;

struct fiber {
  void *jump[5];    /* where it goes on */
  uint64_t sent[2]; /* to the other threads of the warp, in turns */
  dim3 place;
  int turn;
  bool started;
};
static fiber fibers[most_threads];
static ucontext_t starts[most_threads];
static fiber *current;
static void *launch[5]; /* where the launch goes on after a block */
static const std::function<void()> *present_thread;

/* Of the block that runs: what each thread does, and how many do that, in all and of each warp */
enum state : char { RUNNING, AT_BARRIER, AT_EXCHANGE, FINISHED };
static state states[most_threads];
static size_t threads_now, at_barrier, finished, at_exchange_of[most_threads / warp], finished_of[most_threads / warp];

/* A pass lets every thread that may run go on, once, in the chosen order. */
static size_t looked_at, looking_at, step;
static unsigned long pass;

static void begin_pass() {
  const size_t n = threads_now;
  looked_at = 0;
  looking_at = device_order == DEVICE_FORWARD ? 0 : device_order == DEVICE_BACKWARD ? n - 1 : pass * 31 % n;
  step = (device_order == DEVICE_FORWARD    ? 1
          : device_order == DEVICE_BACKWARD ? n - 1
                                            : 769) %
         n; /* 769: a prime that divides no block size */
  pass++;
}

static void release(size_t from, size_t to, state waiting) {
  for (size_t i = from; i < to; i++)
    if (states[i] == waiting) states[i] = RUNNING;
}

/* Lets threads go on where all that have not finished have come to the barrier, or to an exchange within their warp. */
static bool release_all() {
  bool any = at_barrier > 0 && at_barrier + finished == threads_now;
  if (any) {
    release(0, threads_now, AT_BARRIER);
    at_barrier = 0;
  }
  for (size_t from = 0; from < threads_now; from += warp) {
    const size_t to = from + warp < threads_now ? from + warp : threads_now;
    if (at_exchange_of[from / warp] == 0 || at_exchange_of[from / warp] + finished_of[from / warp] < to - from) continue;
    release(from, to, AT_EXCHANGE);
    at_exchange_of[from / warp] = 0;
    any = true;
  }
  return any;
}

/* The thread that goes on; NULL: all have finished */
static fiber *next_thread() {
  for (;;) {
    while (looked_at < threads_now) {
      const size_t i = looking_at;
      looked_at++;
      looking_at += step;
      if (looking_at >= threads_now) looking_at -= threads_now;
      if (states[i] == RUNNING) return &fibers[i];
    }
    if (finished == threads_now) return NULL;
    if (!release_all()) {
      fprintf(stderr, "a kernel hangs: some threads wait at a barrier or exchange that others do not reach\n");
      abort();
    }
    begin_pass();
  }
}

/* Jumps of the compiler's own, as swapcontext() would ask the kernel for the signal mask each time; a stack is entered by it once and then
 * kept. */
static __attribute__((noinline)) void jump(void **where) { __builtin_longjmp(where, 1); } /* not in a function that has a setjmp */

static __attribute__((noinline)) void enter(fiber *f) {
  current = f;
  threadIdx = f->place;
  if (f->started) jump(f->jump);
  f->started = true;
  setcontext(&starts[f - fibers]);
}

static __attribute__((noinline)) void wait_as(state waiting) {
  const size_t me = (size_t)(current - fibers);
  states[me] = waiting;
  at_barrier += waiting == AT_BARRIER;
  at_exchange_of[me / warp] += waiting == AT_EXCHANGE;
  finished += waiting == FINISHED;
  finished_of[me / warp] += waiting == FINISHED;
  fiber *const next = next_thread();
  if (next == current || __builtin_setjmp(current->jump) != 0) return;
  if (next) enter(next);
  jump(launch);
}

void __syncthreads() { wait_as(AT_BARRIER); }

/* All threads send, wait, and receive. What was sent stays until the exchange after the next: nobody is two ahead of another. */
uint64_t device_exchange(uint64_t sent, int lane_mask) {
  const size_t other = (size_t)(current - fibers) ^ (size_t)lane_mask;
  const int turn = current->turn;
  current->sent[turn] = sent;
  current->turn = 1 - turn;
  wait_as(AT_EXCHANGE);
  return fibers[other].sent[turn];
}

static void run_threads() {
  for (;;) {
    (*present_thread)();
    wait_as(FINISHED);
  }
}

static __attribute__((noinline)) void run_block() {
  if (__builtin_setjmp(launch) == 0) enter(next_thread());
}

static void make_stacks(size_t n) {
  static size_t made;
  for (; made < n; made++) {
    ucontext_t *const start = &starts[made];
    getcontext(start);
    start->uc_stack.ss_sp = mmap(NULL, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start->uc_stack.ss_sp == MAP_FAILED) abort();
    start->uc_stack.ss_size = stack_bytes, start->uc_link = NULL;
    makecontext(start, run_threads, 0);
  }
}

void device_run_blocks(dim3 blocks, dim3 threads, size_t shared, const std::function<void()> &thread) {
  const size_t n = threads_now = (size_t)threads.x * threads.y * threads.z;
  present_thread = &thread;
  gridDim = blocks, blockDim = threads;
  make_stacks(n);
  for (size_t i = 0; i < n; i++)
    fibers[i].place = dim3((unsigned)(i % threads.x), (unsigned)(i / threads.x % threads.y), (unsigned)(i / threads.x / threads.y));
  device_memory(1);
  std::vector<char> memory;
  for (unsigned b = 0; b < blocks.x; b++) {
    blockIdx = dim3(b, 0, 0);
    memory.assign(shared, (char)0xff);
    device_shared = memory.data();
    at_barrier = finished = 0;
    for (size_t i = 0; i < n; i++) {
      states[i] = RUNNING;
      fibers[i].turn = 0;
      at_exchange_of[i / warp] = finished_of[i / warp] = 0;
    }
    pass = b;
    begin_pass();
    run_block();
  }
  device_memory(0);
}
