/* What the emulated device does in a stretch of a program: its launches, products and copies in
 * their order; and of kernels that are compiled for it, what each moves and computes.
 *
 * Kernels compiled with -fsanitize=thread call a function before every access to memory, with
 * -fsanitize-coverage=trace-pc one at the start of every basic block. count.cpp has these functions
 * in place of the sanitizers'. Of accesses to device memory it counts
 *
 *   bytes      of the threads, as if each were alone;
 *   by_blocks  sectors of 32 bytes that differ within a block, summed over blocks: what the
 *              second-level cache sees if the first level keeps all that a block uses again, for
 *              that block alone;
 *   sectors    that differ within the launch;
 *   memory     sectors that have to come from, or go to, memory behind a second-level cache of
 *              COUNT_CACHE_BYTES: those not touched since launches that between them have touched
 *              more than that. A sector that was stored is written back when it is next found gone.
 *
 * and of accesses to shared memory the bytes. Atomics are the load and the store that they are. */
#ifndef AV_TESTS_GPU_ROOFLINE_COUNT_H
#define AV_TESTS_GPU_ROOFLINE_COUNT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { COUNT_SECTOR = 32 };
static const int64_t COUNT_CACHE_BYTES = (int64_t)50 << 20;

/* Of loads [0] and stores [1]. */
typedef struct count_memory {
  int64_t bytes[2], shared[2], by_blocks[2], sectors[2], memory[2];
} count_memory;

/* From before the first device memory is allocated. `run`: kernels run and are counted; without,
 * nothing runs, and there is a list of launches alone. */
void count_begin(bool run);
/* Empties the second-level cache. */
void count_cold(void);
/* Forgets what was listed so far; what the cache holds stays. */
void count_again(void);
/* One JSON object a launch, product or copy, on a line each; "visits" of basic blocks by the place
 * after the call at their beginning, as objdump has it. */
void count_write(FILE *out);

#ifdef __cplusplus
}
#endif

#endif
