/* Sends what was written to a file on to its disk while more of it is made, and gives its memory in
 * the page cache back.
 *
 * Left alone, the kernel keeps gigabytes of a file in memory until fsync, which then waits for all
 * of them; and a page that is new to the cache costs several times the copy into it. With a window
 * of WINDOW bytes the disk is busy from the start, and the same pages serve again: 1.6 GB written
 * in blocks of 8 MiB and fsynced took 0.60 s where plain writes took 1.0 to 4.6 s (ext4, virtual
 * disk). Internal to src/io; one thread at a time.
 */
#ifndef AV_IO_WRITE_BEHIND_H
#define AV_IO_WRITE_BEHIND_H

#include <stdint.h>

enum { AV_BEHIND_STRETCHES = 256 };

/* All zero: nothing written yet. */
typedef struct av_write_behind {
  int64_t open_begin, open_end; /* written, not yet sent: grows while writes follow each other */
  int n, oldest;                /* stretches on their way, a ring */
  int64_t on_the_way;           /* their bytes */
  struct {
    int64_t begin, end;
  } stretch[AV_BEHIND_STRETCHES];
} av_write_behind;

/* [offset, offset + bytes) of the file was written. Waits for the disk when more than the window is
 * on its way. Returns the errno of a write that failed behind the caller's back, which no later
 * fsync need report; 0 if none. */
int av_write_behind_wrote(av_write_behind *behind, int descriptor, int64_t offset, int64_t bytes);

#endif
