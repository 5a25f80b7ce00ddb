/* The CPU backend: threads, vectors, BLAS, and the exact algebra of model.md section 5. */
#ifndef AV_BACKEND_CPU_H
#define AV_BACKEND_CPU_H

#include "backend/backend.h"

extern const av_backend_ops av_backend_cpu;

/* The instruction set that the kernels of an open cpu backend use: "avx512", "avx2", "baseline". */
const char *av_cpu_instructions(const av_backend *be);

#endif
