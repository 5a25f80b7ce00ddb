/* What emulate.cpp, runtime.cpp and cublas.cpp share. */
#ifndef AV_EMULATED_MEMORY_H
#define AV_EMULATED_MEMORY_H

#include "cuda_runtime_api.h"

/* Device memory is open to everybody while a kernel runs, and poisoned otherwise. */
void av_emulated_open_memory();
void av_emulated_close_memory();
/* Fails unless the `bytes` from `at` on may be touched; for code that no sanitizer sees. */
void av_emulated_check(const char *what, const void *at, size_t bytes);

/* All static __shared__ arrays, with the red zones between them; NULL: there are none. */
void av_emulated_static_shared(char **begin, char **end);

extern const av_emulated_watch *av_emulated_watcher; /* NULL: nobody */
extern bool av_emulated_works;    /* a function that was queued runs: the program does not wait */
extern int64_t av_emulated_clock; /* the device's: kernels and products so far */

void av_emulated_set_error(cudaError_t error);
int64_t av_emulated_live();
void av_emulated_count_waits(av_emulated_counts *counts); /* sets its waits */
/* A launch that an H100 takes. */
bool av_emulated_fits(dim3 grid, dim3 block, size_t shared_bytes);
/* Which of n that may all come next does, in the order of av_emulate_order. */
size_t av_emulated_pick(size_t n);
int av_emulated_most_shared(); /* ever asked for by cudaFuncSetAttribute */

#endif
