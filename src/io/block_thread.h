/* A thread of its own that works on finished blocks, in order, while the next are made.
 *
 *   av_block_thread_create(&thread, n_blocks, block_bytes, work, context);
 *   block = av_block_thread_room(thread);  ... fill ...  av_block_thread_put(thread, block, ...);
 *   av_block_thread_finish(&thread);
 *
 * What `work` uses is the thread's until finish. One caller. Without a thread (none can be had) put
 * does the work itself. Internal to src/io.
 */
#ifndef AV_IO_BLOCK_THREAD_H
#define AV_IO_BLOCK_THREAD_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

enum { AV_BLOCK_PARTS = 2 };

/* Bytes of a block that belong together. */
typedef struct av_block_part {
  const void *data;
  int64_t bytes;
  int64_t address;    /* in the file that `work` knows, if it knows one */
  uint32_t *checksum; /* a CRC-32 that `work` continues over `data`; NULL: none wanted */
} av_block_part;

/* What the thread does with a part. false: it failed; parts that follow are given to it still. */
typedef bool (*av_block_work)(void *context, const av_block_part *part);

typedef struct av_block_thread av_block_thread;

/* `n_blocks` (2 or more) blocks of `block_bytes`, and the thread; `context` must outlive it. */
av_status av_block_thread_create(av_block_thread **thread, int n_blocks, int64_t block_bytes,
                                 av_block_work work, void *context);
/* A block to fill; waits for one. */
void *av_block_thread_room(av_block_thread *thread);
/* Hands a block on, with up to AV_BLOCK_PARTS parts of it; none gives it back as it is. */
void av_block_thread_put(av_block_thread *thread, void *block, int n_parts,
                         const av_block_part *parts);
/* Has any work failed by now? */
bool av_block_thread_failed(av_block_thread *thread);
/* Waits until all is done; frees. Accepts NULL. */
void av_block_thread_finish(av_block_thread **thread);

#endif
