/* Which kernels have run: AV_EMULATED_RAN, emulate.h. */
#include "cuda_runtime.h"
#include "emulate.h"

#include <cxxabi.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string>
#include <unistd.h>

namespace {

const av_emulated_instance *last; /* NULL before any constructor has run */

/* "gradient<4, true>(its parameters)" */
std::string name_of(const av_emulated_instance *instance) {
  const std::string before = "av_emulated_known<&(";
  const std::string after = ")>";
  char *plain = abi::__cxa_demangle(instance->type, NULL, NULL, NULL);
  std::string name = plain != NULL ? plain : "";
  free(plain);
  if (name.size() < before.size() + after.size() || name.compare(0, before.size(), before) != 0) {
    av_emulate_fail("the type %s does not name a kernel", instance->type);
  }
  name = name.substr(before.size(), name.size() - before.size() - after.size());
  return name.compare(0, 5, "void ") == 0 ? name.substr(5) : name; /* only templates have it */
}

void write_record() {
  const char *folder = getenv("AV_EMULATED_RAN");
  if (folder == NULL) {
    return;
  }
  const std::string path =
      std::string(folder) + "/" + program_invocation_short_name + "." + std::to_string(getpid());
  FILE *file = fopen(path.c_str(), "w");
  bool written = file != NULL;
  for (const av_emulated_instance *i = last; written && i != NULL; i = i->before) {
    written = fprintf(file, "%s %s %s\n", i->ran ? "ran" : "never", basename(i->file),
                      name_of(i).c_str()) > 0;
  }
  if (!written || fclose(file) != 0) {
    fflush(NULL);
    fprintf(stderr, "emulation: cannot write %s\n", path.c_str());
    _exit(1);
  }
}
__attribute__((constructor)) void write_at_exit() { atexit(write_record); }

}  // namespace

av_emulated_instance::av_emulated_instance(const char *of_file, const char *known_as)
    : file(of_file), type(known_as), ran(false), before(last) {
  last = this;
}
