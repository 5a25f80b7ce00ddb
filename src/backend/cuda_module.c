#include "backend/cuda_module.h"

#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <string.h>

/* Found by the program's run path: its own folder, or ../lib/atlasvi from there. */
#define MODULE "libatlasvi_cuda.so"

static char why[1024] = "";

static const av_cuda_module *refuse(const char *what, const char *detail, const char *advice) {
  snprintf(why, sizeof why, "%s%.*s%s", what, (int)strcspn(detail, "\n"), detail, advice);
  return NULL;
}

/* The loader names a file that it has found by its path, one that is missing by its name alone: the
 * module's, or that of a library that the module needs. */
static const av_cuda_module *not_loaded(const char *text) {
  if (text == NULL || strncmp(text, MODULE ":", strlen(MODULE ":")) == 0) {
    return refuse("not in this build", "",
                  " (no " MODULE
                  " beside the program, nor in ../lib/atlasvi): for GPUs build with "
                  "cmake --preset cuda");
  }
  return refuse(MODULE " is there but cannot be loaded: ", text,
                "; let LD_LIBRARY_PATH name the folder of a library that is not found, or build "
                "again here with cmake --preset cuda");
}

static const av_cuda_module *of_another_build(void *handle) {
  const struct link_map *map = NULL;
  const bool known = dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0;
  return refuse("", known ? map->l_name : MODULE,
                " is of another build of atlasvi than this program; build both with cmake --preset "
                "cuda, and keep or install them together");
}

/* Of a module of another build nothing is read but the interface's text. What has been loaded
 * stays: libraries of CUDA are not made to be unloaded. */
static const av_cuda_module *load(void) {
  void *handle = dlopen(MODULE, RTLD_NOW | RTLD_LOCAL);
  if (handle == NULL) {
    return not_loaded(dlerror());
  }
  const char *interface = dlsym(handle, AV_CUDA_INTERFACE_SYMBOL);
  const av_cuda_module *module = dlsym(handle, AV_CUDA_MODULE_SYMBOL);
  if (interface == NULL || module == NULL || strcmp(interface, AV_CUDA_INTERFACE) != 0) {
    return of_another_build(handle);
  }
  return module;
}

const av_cuda_module *av_cuda_module_load(const char **reason) {
  static const av_cuda_module *module = NULL;
  static bool tried = false;
  if (!tried) {
    module = load();
    tried = true;
  }
  *reason = why;
  return module;
}
