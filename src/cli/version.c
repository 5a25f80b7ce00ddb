#include "cli/version.h"

#include "cli/revision.h" /* written by revision.cmake when the program is built */
#include "io/h5.h"

#include <cblas.h>
#include <mpi.h>
#include <string.h>

const char *av_version(void) { return AV_VERSION; }

const char *av_revision(void) { return AV_REVISION; }

#if defined(__clang__)
#define COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define COMPILER "gcc " __VERSION__
#else
#define COMPILER "unknown"
#endif

/* "Open MPI v4.1.4, package: ..." without what follows the version. */
static void print_mpi(FILE *out) {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  if (MPI_Get_library_version(text, &length) != MPI_SUCCESS) {
    snprintf(text, sizeof text, "unknown");
  }
  text[strcspn(text, "\n")] = '\0';
  char *package = strstr(text, ", package:");
  if (package != NULL) {
    *package = '\0';
  }
  fprintf(out, "MPI       %s\n", text);
}

void av_print_version(FILE *out) {
  fprintf(out, "atlasvi   %s\n", AV_VERSION);
  fprintf(out, "revision  %s\n", AV_REVISION);
  fprintf(out, "compiler  %s\n", COMPILER);
  fprintf(out, "build     %s\n", AV_BUILD_TYPE);
  print_mpi(out);
  fprintf(out, "HDF5      %s\n", av_h5_version());
  fprintf(out, "BLAS      %s\n", openblas_get_config());
  fprintf(out, "CUDA      not in this build\n");
  fprintf(out, "NCCL      not in this build\n");
  fprintf(out, "backends  cpu, reference\n");
}
