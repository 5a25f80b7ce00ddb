/* What this build is: for --version, the banner and uns/atlasvi. */
#ifndef AV_CLI_VERSION_H
#define AV_CLI_VERSION_H

#include <stdio.h>

/* "0.1.0", and the git revision the build was made from ("unknown" outside a git checkout). */
const char *av_version(void);
const char *av_revision(void);

/* Compiler, build type, MPI, HDF5 and BLAS in one line. Needs no MPI_Init. */
enum { AV_BUILD_TEXT = 512 };
void av_build_text(char text[AV_BUILD_TEXT]);

/* Version, revision, compiler, build type, MPI, HDF5, BLAS, CUDA and NCCL, backends: one line each.
 * Needs no MPI_Init. */
void av_print_version(FILE *out);

#endif
