#include "base/memory.h"

#include "base/cgroup.h"

#include <malloc.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Blocks of half a huge page and more get whole huge pages, where the system gives them on request:
 * rows gathered from megabytes of weights or counts then find their address at once. */
enum { ALIGNMENT = 64, HUGE_PAGE = 2 << 20 };

static void *aligned(size_t n, size_t size) {
  size_t bytes = 0;
  if (__builtin_mul_overflow(n, size, &bytes) || bytes > SIZE_MAX - HUGE_PAGE) {
    return NULL;
  }
  const bool huge = bytes >= HUGE_PAGE / 2;
  const size_t unit = huge ? HUGE_PAGE : ALIGNMENT;
  bytes = (bytes + unit - (huge ? 1 : 0)) / unit * unit;
  void *block = aligned_alloc(unit, bytes);
  if (block != NULL && huge) {
    (void)madvise(block, bytes, MADV_HUGEPAGE); /* a wish: without it all is as right */
  }
  return block;
}

void *av_calloc(size_t n, size_t size) {
  void *block = aligned(n, size);
  if (block != NULL) {
    memset(block, 0, n * size);
  }
  return block;
}

void *av_malloc(size_t n, size_t size) {
  void *block = aligned(n, size);
#ifndef NDEBUG
  if (block != NULL) {
    memset(block, 0xff, n * size);
  }
#endif
  return block;
}

/* Asks for huge pages for all pages of a block, not only for the whole ones within: pages of two
 * kinds could not be moved by the kernel's tables when the block grows. */
static void wish_huge(void *block) {
  const size_t page = 4096;
  char *const begin = (char *)block - (uintptr_t)block % page;
  const size_t used = (size_t)((char *)block - begin) + malloc_usable_size(block);
  (void)madvise(begin, (used + page - 1) / page * page, MADV_HUGEPAGE);
}

void *av_realloc(void *old, size_t n, size_t size) {
  size_t bytes = 0;
  if (__builtin_mul_overflow(n, size, &bytes)) {
    return NULL;
  }
  void *block = realloc(old, bytes == 0 ? 1 : bytes);
  if (block != NULL && bytes >= 2 * (size_t)HUGE_PAGE) {
    wish_huge(block);
  }
  return block;
}

char *av_strdup(const char *text) { return strdup(text); }

char *av_format(const char *format, ...) {
  va_list args;
  va_start(args, format);
  char *text = NULL;
  const int length = vasprintf(&text, format, args);
  va_end(args);
  return length < 0 ? NULL : text;
}

/* "VmHWM:   123 kB" in /proc/self/status. Not getrusage(): its maximum begins with that of the
 * process that started this one. */
int64_t av_memory_peak(void) {
  FILE *file = fopen("/proc/self/status", "r");
  char line[256];
  long long kilobytes = 0;
  if (file == NULL) {
    return 0;
  }
  while (fgets(line, sizeof line, file) != NULL) {
    if (sscanf(line, "VmHWM: %lld kB", &kilobytes) == 1) {
      break;
    }
  }
  fclose(file);
  return (int64_t)kilobytes * 1024;
}

int64_t av_memory_available(void) {
  int64_t available = -1;
  FILE *file = fopen("/proc/meminfo", "r");
  if (file != NULL) {
    char line[256];
    while (fgets(line, sizeof line, file) != NULL) {
      long long kilobytes = 0;
      if (sscanf(line, "MemAvailable: %lld kB", &kilobytes) == 1) {
        available = (int64_t)kilobytes * 1024;
        break;
      }
    }
    fclose(file);
  }
  char membership[8192];
  av_cgroup_membership(membership, sizeof membership);
  const int64_t granted = av_cgroup_memory("/sys/fs/cgroup", membership);
  return granted >= 0 && (available < 0 || granted < available) ? granted : available;
}
