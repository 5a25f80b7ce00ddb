/* The reference backend: plain loops in double. Slow and readable: what the operations mean. */
#ifndef AV_BACKEND_REFERENCE_H
#define AV_BACKEND_REFERENCE_H

#include "backend/backend.h"

extern const av_backend_ops av_backend_reference;

#endif
