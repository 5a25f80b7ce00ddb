/* The cuda backend: one GPU a rank. */
#ifndef AV_GPU_CUDA_BACKEND_H
#define AV_GPU_CUDA_BACKEND_H

#include "backend/backend.h"

extern const av_backend_ops av_backend_cuda;

#endif
