/* An array on the device that ranks exchange, and their shares of it. */
#ifndef AV_GPU_COMM_ARRAY_H
#define AV_GPU_COMM_ARRAY_H

#include "backend/backend.h"

/* n doubles (wide) or floats. */
typedef struct av_gpu_array {
  void *at;
  int64_t n;
  bool wide;
} av_gpu_array;

/* Bytes of an element. */
static inline size_t av_gpu_element(const av_gpu_array *array) {
  return array->wide ? sizeof(double) : sizeof(float);
}

/* The share of rank `rank`: its first element, elements, where it begins. */
static inline int64_t av_gpu_array_share_first(const av_gpu_array *array, const av_comm *comm,
                                               int rank) {
  return av_share_first(comm, array->n, rank);
}
static inline int64_t av_gpu_array_share_size(const av_gpu_array *array, const av_comm *comm,
                                              int rank) {
  return av_share_first(comm, array->n, rank + 1) - av_share_first(comm, array->n, rank);
}
static inline void *av_gpu_array_share_at(const av_gpu_array *array, const av_comm *comm,
                                          int rank) {
  return (char *)array->at +
         (size_t)av_gpu_array_share_first(array, comm, rank) * av_gpu_element(array);
}

#endif
