/* What this build is: for --version, the banner and uns/atlasvi. */
#ifndef AV_CLI_VERSION_H
#define AV_CLI_VERSION_H

#include <stdio.h>

/* "0.1.0", and the git revision the build was made from ("unknown" outside a git checkout). */
const char *av_version(void);
const char *av_revision(void);

/* Version, revision, compiler, build type, MPI, HDF5, BLAS, CUDA and NCCL, backends: one line each.
 * Needs no MPI_Init. */
void av_print_version(FILE *out);

#endif
