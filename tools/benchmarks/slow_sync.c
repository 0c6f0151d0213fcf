/* fsync and fdatasync that take SLOW_SYNC_US microseconds longer: preloaded, they stand for a
 * disk that is slower to say that what was written is safe. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

typedef int (*sync_call)(int);

static int slowly(const char *name, int file) {
  sync_call call = (sync_call)dlsym(RTLD_NEXT, name);
  const char *text = getenv("SLOW_SYNC_US");
  long wait_us = text ? atol(text) : 0;
  struct timespec wait = {wait_us / 1000000, wait_us % 1000000 * 1000};
  int result = call(file);
  nanosleep(&wait, NULL);
  return result;
}

int fsync(int file) { return slowly("fsync", file); }
int fdatasync(int file) { return slowly("fdatasync", file); }
