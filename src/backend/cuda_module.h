/* The cuda backend lives in a module of its own, libatlasvi_cuda.so (gpu/), which is loaded when it
 * is asked for: its libraries take 200 MB and a tenth of a second of every process that they are
 * loaded into, and the program has to run where there are none of them. */
#ifndef AV_BACKEND_CUDA_MODULE_H
#define AV_BACKEND_CUDA_MODULE_H

#include "backend/backend.h"
#include "backend/interface.h" /* written by interface.cmake when the program is built */

enum { AV_CUDA_VERSION_TEXT = 64 };

/* What the module exports: a text that stands for all that its build takes the program's types and
 * functions to be, which the program compares with its own before it reads anything else ... */
#define AV_CUDA_INTERFACE_SYMBOL "av_interface_of_cuda"
#define AV_CUDA_INTERFACE AV_PROJECT_VERSION " " AV_INTERFACE
extern const char av_interface_of_cuda[]; /* within the module alone */

/* ... and this. */
#define AV_CUDA_MODULE_SYMBOL "av_module_of_cuda"
typedef struct av_cuda_module {
  const av_backend_ops *ops;
  /* Versions of the libraries in use: "13.0, driver for 13.1" or "13.0, no driver"; "2.27.3". */
  void (*versions)(char cuda[AV_CUDA_VERSION_TEXT], char nccl[AV_CUDA_VERSION_TEXT]);
} av_cuda_module;

extern const av_cuda_module av_module_of_cuda; /* within the module alone */

/* The module, from beside the program or where it was installed; NULL, and in *reason one line
 * (static) that says why and what to do, where there is none that fits this program. Loads it once.
 * Not collective; by one thread. */
const av_cuda_module *av_cuda_module_load(const char **reason);

#endif
