#include "backend/cuda_module.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

/* Found by the program's run path: its own folder, or ../lib/atlasvi from there. */
#define MODULE "libatlasvi_cuda.so"

static char why[512] = "";

static const av_cuda_module *refuse(const char *text) {
  snprintf(why, sizeof why, "%s", text != NULL ? text : MODULE " cannot be loaded");
  why[strcspn(why, "\n")] = '\0';
  return NULL;
}

static const av_cuda_module *load(void) {
  void *handle = dlopen(MODULE, RTLD_NOW | RTLD_LOCAL);
  if (handle == NULL) {
    return refuse(dlerror());
  }
  const av_cuda_module *module = dlsym(handle, AV_CUDA_MODULE_SYMBOL);
  if (module == NULL) {
    return refuse(dlerror());
  }
  if (module->bytes_of_ops != sizeof(av_backend_ops) ||
      strcmp(module->build, AV_PROJECT_VERSION) != 0) {
    return refuse(MODULE " is of another version of atlasvi");
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
