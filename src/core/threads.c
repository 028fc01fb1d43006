#include "core/threads.h"

#if defined(__GNUC__) && (defined(__unix__) || defined(__APPLE__))
#include <pthread.h>

static volatile int forked = 0;
static void after_fork(void) { forked = 1; }
__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(0, 0, after_fork); }
#else
enum { forked = 0 };
#endif

int spd_threads(int wanted) { return forked || wanted < 1 ? 1 : wanted; }
