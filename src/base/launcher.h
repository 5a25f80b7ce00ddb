/* The process that started this rank on this node: Open MPI's mpirun, or its daemon elsewhere.
 *
 * It matters twice. Open MPI gives every rank a pseudo-terminal as stdout, even when mpirun itself
 * writes to a file: whether a person is watching, only mpirun's own stdout tells. And it binds
 * ranks to cores: how many there would be without binding, only the launcher's affinity tells.
 */
#ifndef AV_BASE_LAUNCHER_H
#define AV_BASE_LAUNCHER_H

#include <stdbool.h>
#include <sys/types.h>

/* Process number of the launcher among this process's ancestors; 0 if there is none (started by
 * hand, by srun, or by another MPI). */
pid_t av_launcher(void);

/* Is `fd` of this process a terminal with a person behind it? For a rank below a launcher, stdout
 * and stderr are if the launcher's are. */
bool av_is_terminal(int fd);

/* Columns of the terminal behind `fd`, `otherwise` if it does not say. */
int av_terminal_width(int fd, int otherwise);

#endif
