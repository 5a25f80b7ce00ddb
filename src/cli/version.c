#include "cli/version.h"

#include "cli/revision.h" /* written by revision.cmake when the program is built */
#include "backend/cuda_module.h"
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
static void mpi_text(char text[MPI_MAX_LIBRARY_VERSION_STRING]) {
  int length = 0;
  if (MPI_Get_library_version(text, &length) != MPI_SUCCESS) {
    snprintf(text, MPI_MAX_LIBRARY_VERSION_STRING, "unknown");
  }
  text[strcspn(text, "\n")] = '\0';
  char *package = strstr(text, ", package:");
  if (package != NULL) {
    *package = '\0';
  }
}

void av_build_text(char text[AV_BUILD_TEXT]) {
  char mpi[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  mpi_text(mpi);
  const char *blas = openblas_get_config(); /* "OpenBLAS 0.3.21 ...", options of its build */
  const char *name_end = strchr(blas, ' ');
  const char *end = name_end == NULL ? NULL : strchr(name_end + 1, ' ');
  snprintf(text, AV_BUILD_TEXT, "%s %s, %s, HDF5 %s, %.*s", COMPILER, AV_BUILD_TYPE, mpi,
           av_h5_version(), end == NULL ? (int)strlen(blas) : (int)(end - blas), blas);
}

/* Where there is no cuda backend: why, once. */
static void print_cuda(FILE *out) {
  char cuda[AV_CUDA_VERSION_TEXT] = "";
  char nccl[AV_CUDA_VERSION_TEXT] = "not loaded";
  const char *reason = NULL;
  const av_cuda_module *module = av_cuda_module_load(&reason);
  if (module != NULL) {
    module->versions(cuda, nccl);
  }
  fprintf(out, "CUDA      %s\n", module != NULL ? cuda : reason);
  fprintf(out, "NCCL      %s\n", nccl);
  fprintf(out, "backends  cpu%s, reference\n", module != NULL ? ", cuda" : "");
}

void av_print_version(FILE *out) {
  char mpi[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  mpi_text(mpi);
  fprintf(out, "atlasvi   %s\n", AV_VERSION);
  fprintf(out, "revision  %s\n", AV_REVISION);
  fprintf(out, "compiler  %s\n", COMPILER);
  fprintf(out, "build     %s\n", AV_BUILD_TYPE);
  fprintf(out, "MPI       %s\n", mpi);
  fprintf(out, "HDF5      %s\n", av_h5_version());
  fprintf(out, "BLAS      %s\n", openblas_get_config());
  print_cuda(out);
}
