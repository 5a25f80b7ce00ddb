/* Scalar formulas that kernels share with the host: compiles as C11, C++ and CUDA. */
#ifndef AV_MATH_HOST_DEVICE_H
#define AV_MATH_HOST_DEVICE_H

#ifdef __CUDACC__
#define AV_HOST_DEVICE __host__ __device__
#else
#define AV_HOST_DEVICE
#endif

#endif
