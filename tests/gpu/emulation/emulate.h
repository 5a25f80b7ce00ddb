/* CUDA's thread model on the CPU, for tests: gpu/kernels compiled as C++ with the headers of this
 * folder in the place of CUDA's, under AddressSanitizer and UBSan.
 *
 * A grid runs block by block, on one thread of the operating system. A block's threads are fibers:
 * each runs until it ends or waits in a barrier or a warp operation, then the next one of the order
 * runs. A kernel is right only if its results are the same in every order: av_emulate_order.
 *
 * Seen as errors:
 *   - accesses outside cudaMalloc'd memory (each block a heap block of exactly its size), static
 *     __shared__ arrays and dynamic shared memory (as many bytes as asked for): AddressSanitizer;
 *   - accesses of the host to the first 8 KiB of a block of device memory: they are poisoned while
 *     no kernel runs;
 *   - reads of what nobody has written: device and shared memory start as 0xff bytes, NaN or -1;
 *   - a barrier that some thread of the block does not reach, or another one than the others'; a
 *     warp operation that some lane of its mask does not reach: abort, with kernel and place;
 *   - a missing barrier, and blocks that read what others write: as a difference between orders;
 *   - host memory that is written, or read, before the asynchronous copy from, or to, it has been
 *     waited for; copies whose direction is not that of the pointers; memory never freed;
 *   - of captures and graphs (graphs.cpp): what CUDA forbids in a capture, in the mode that it was
 *     begun with, by CUDA's error codes: waiting and asking, allocating, copies at once or of
 *     pageable memory, the default stream, events from outside, work that is not joined. Stricter
 *     than CUDA is known to be: the default stream also where the capturing one does not wait for
 *     it, and empty copies. Memory that was freed since, a missing wait between two streams of a
 *     graph (as a difference between orders), graphs never destroyed, and products without a
 *     workspace of the caller's.
 *
 * Not emulated, and so not tested here:
 *   - graphs that are made or changed other than by capture, graphs in graphs, two captures at a
 *     time, memory that a graph allocates; what a launch of a graph costs;
 *   - peer access, unified memory, textures;
 *   - concurrency: outside graphs streams run their work at once, threads and blocks one after the
 *     other, so that races within what an order makes of them, and waiting for another block in a
 *     loop, stay unseen; memory order: fences do nothing and warp operations order memory;
 *   - warps: no divergence or reconvergence, no lock-step; timing, occupancy, bank conflicts,
 *     registers; a launch is checked against an H100's limits alone, its shared memory above 48 KiB
 *     against the largest that cudaFuncSetAttribute has asked for, for any kernel;
 *   - tensor cores, but for the rounding of their factors; arithmetic is the host's: expf and such
 *     are glibc's, products and sums are not fused unless written as fmaf; atomic operations on
 *     floating-point numbers do not exist, on purpose;
 *   - kernels that follow pointers to pageable host memory. */
#ifndef AV_EMULATE_H
#define AV_EMULATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum av_emulated_order {
  AV_ORDER_ASCENDING,
  AV_ORDER_DESCENDING,
  AV_ORDER_SHUFFLED /* warps, lanes of a warp and blocks: another order in every block and launch */
} av_emulated_order;

/* The order in which blocks and their threads, and the branches of graphs, run from the next launch
 * on; `seed` of the shuffle. At the start it is that of the environment:
 * AV_EMULATED_ORDER=descending or a seed's number, otherwise ascending. */
void av_emulate_order(av_emulated_order order, uint64_t seed);

/* Device memory in all (4 GiB), and devices: 0: calls answer cudaErrorNoDevice; several have the
 * same memory. At the start as many as the environment's AV_EMULATED_DEVICES says, or 1.
 * Their compute capability is AV_EMULATED_MAJOR.0, or 9.0. By their clock a kernel, or a product,
 * takes 1 us; with AV_EMULATED_CLOCK=backwards n of them take 1/n s. With AV_EMULATED_BREAKS=R:N,
 * from launch N + 1 of rank R (of OMPI_COMM_WORLD_RANK) on, whoever asks for errors, waits, copies
 * or records an event gets cudaErrorIllegalAddress. */
void av_emulate_memory(size_t bytes);
void av_emulate_devices(int n);

/* Since the program's start. */
typedef struct av_emulated_counts {
  int64_t launches, blocks, threads;
  int64_t queued;     /* of the launches those of the host, not of a graph */
  int64_t switches;   /* between fibers */
  int64_t live;       /* blocks of device and pinned memory not yet freed */
  int64_t graphs;     /* cudaGraph_t and cudaGraphExec_t not yet destroyed */
  int64_t played;     /* launches of graphs; their kernels are counted above */
  int64_t waits;      /* of the host for all of a stream, a copy or the device */
  int64_t new_waits;  /* for events that were recorded fewer than 4 launches of graphs ago */
  int64_t idle_waits; /* for events that no kernel and no product was queued after: the device has
                         nothing to do until the host goes on */
} av_emulated_counts;
/* Printed to stderr at the end, too, if the environment has AV_EMULATED_REPORT. */
av_emulated_counts av_emulate_counts(void);

/* With AV_EMULATED_RAN=FOLDER in the environment a program that ends by itself writes a file there:
 * a line for each kernel of its launches, one for each instance of a template, with `ran` or
 * `never`, its source file and its name (instances.cpp; ../instances.py reads them). */

/* Somebody who is told of all that the device does, when it does it. Matrices of a product are of
 * `columns` columns, each of `rows` floats, `stride` apart. */
typedef struct av_emulated_matrix {
  const float *at;
  int rows, columns, stride;
} av_emulated_matrix;
typedef struct av_emulated_watch {
  /* Before a kernel, and after it. False: it does not run, and `ended` is not called; for lists of
   * launches, which follow from sizes alone. */
  bool (*launched)(const char *kernel, const unsigned grid[3], const unsigned block[3],
                   size_t shared_bytes);
  void (*ended)(void);
  /* Before c = a b (+ c if `added`), a and b as they lie in memory, k long. False: not done. */
  bool (*multiplied)(av_emulated_matrix a, av_emulated_matrix b, av_emulated_matrix c, int k,
                     bool added);
  /* Copied, or filled where `from` is NULL. */
  void (*moved)(const void *to, const void *from, size_t bytes);
  /* Device memory was allocated, or is about to be freed. */
  void (*memory)(const void *at, size_t bytes, bool taken);
} av_emulated_watch;
/* From now on; NULL: nobody. */
void av_emulate_watch(const av_emulated_watch *watch);

/* Ends the program with a message that names the running kernel, block and thread. */
void av_emulate_fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn, cold));

#ifdef __cplusplus
}
#endif

#endif
