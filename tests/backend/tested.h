/* The backend that the tests of this folder compare with the reference, chosen by what they are
 * linked with: tested_cpu.c, or tests/gpu/tested_cuda.c. */
#ifndef AV_TESTS_TESTED_H
#define AV_TESTS_TESTED_H

#include "backend/backend.h"

/* It has sums that do not depend on their order, another way of adding (backend.h). */
extern const bool tested_is_order_free;
/* Rows that a minibatch could hold and lacks are made 0 in what it writes, and must be 0 in what
 * it reads; else they are left alone. */
extern const bool tested_clears_spare;
/* All ways of computing the same (use_way) give the same bits. */
extern const bool tested_keeps_bits;
/* It takes so long that the largest shapes are computed in one way alone. */
extern const bool tested_is_slow;
/* Collective. */
av_status open_tested(av_backend *be, const av_comm *comm, int threads, bool strict);
/* Switches to way number i of computing the same: of the cpu backend the instruction sets that this
 * machine runs; false past the last. */
bool use_way(av_backend *be, int i);

#endif
