/* Allocation: aligned for vector code, in huge pages from 1 MiB on where the system has them,
 * overflow-checked, NaN-poisoned where a debug build asks. */
#ifndef AV_BASE_MEMORY_H
#define AV_BASE_MEMORY_H

#include <stddef.h>
#include <stdint.h>

/* n elements of `size` bytes, 64-byte aligned, zeroed; NULL when out of memory or on overflow.
 * n = 0 gives a valid pointer. Free with free(). */
void *av_calloc(size_t n, size_t size);

/* The same, not zeroed: every byte is 0xff (a NaN in float and double) when NDEBUG is not set, so
 * that a read of something never written shows. Free with free(). */
void *av_malloc(size_t n, size_t size);

/* Growing array: n elements wanted, old contents kept; NULL on failure (the old block remains).
 * Plain malloc alignment; large blocks get huge pages where the system gives them on request. Free
 * with free(). */
void *av_realloc(void *old, size_t n, size_t size);

/* strdup / printf into a new string; NULL when out of memory. Free with free(). */
char *av_strdup(const char *text);
char *av_format(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Largest resident size of this process so far, bytes; 0 if unknown. */
int64_t av_memory_peak(void);
/* Memory of this machine that a new job may still take, bytes (the smaller of MemAvailable and
 * what the limits of its control groups leave); -1 if unknown. */
int64_t av_memory_available(void);

#endif
