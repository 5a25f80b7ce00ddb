/* count.h for kernels that are played (played.h): what each launch issues. */
#include "roofline/played.h"

#include "roofline/count.h"

#include "emulate.h"

#include <algorithm>
#include <elf.h>
#include <inttypes.h>
#include <map>
#include <stdio.h>
#include <stdlib.h>
#include <string>
#include <vector>

namespace {

const size_t LANES = 32;

struct Record {
  std::string text; /* what it was, as JSON without the braces */
  const played_kernel *kernel;
  double issued[3], longest; /* of all warps; the most of one, likely */
  int64_t requests;          /* of all */
};
std::vector<Record> records;

std::vector<uint32_t> visits; /* (threads of the block that runs, n_blocks) */
unsigned block_now[3];
bool block_known;

std::map<std::string, const played_kernel *> &kernels() {
  static std::map<std::string, const played_kernel *> all; /* before main */
  return all;
}

[[noreturn]] void fail(const char *what, const std::string &name) {
  fprintf(stderr, "gpu_played: %s %s\n", what, name.c_str());
  exit(1);
}

std::vector<char> own_file() {
  std::vector<char> content;
  FILE *file = fopen("/proc/self/exe", "rb");
  char part[65536];
  size_t n = 0;
  while (file != NULL && (n = fread(part, 1, sizeof part, file)) > 0) {
    content.insert(content.end(), part, part + n);
  }
  if (file == NULL || fclose(file) != 0 || content.size() < sizeof(Elf64_Ehdr)) {
    fail("cannot read", "/proc/self/exe");
  }
  return content;
}

/* Names of this program's functions, those of one file among them; without what says that. */
std::map<uintptr_t, std::string> own_functions() {
  std::map<uintptr_t, std::string> found;
  const std::vector<char> content = own_file();
  const Elf64_Ehdr *head = reinterpret_cast<const Elf64_Ehdr *>(content.data());
  const Elf64_Shdr *sections = reinterpret_cast<const Elf64_Shdr *>(content.data() + head->e_shoff);
  for (int s = 0; s < head->e_shnum; ++s) {
    if (sections[s].sh_type != SHT_SYMTAB) {
      continue;
    }
    const char *names = content.data() + sections[sections[s].sh_link].sh_offset;
    const Elf64_Sym *symbols =
        reinterpret_cast<const Elf64_Sym *>(content.data() + sections[s].sh_offset);
    for (size_t i = 0; i < sections[s].sh_size / sizeof *symbols; ++i) {
      if (ELF64_ST_TYPE(symbols[i].st_info) == STT_FUNC) {
        std::string name = names + symbols[i].st_name;
        if (name.compare(0, 3, "_ZL") == 0) {
          name.erase(2, 1);
        }
        found[symbols[i].st_value] = name;
      }
    }
  }
  return found;
}

const played_kernel *played_of(void (*function)()) {
  static const std::map<uintptr_t, std::string> names = own_functions();
  const auto name = names.find(reinterpret_cast<uintptr_t>(function));
  if (name == names.end()) {
    fail("a kernel without", "a name");
  }
  const auto kernel = kernels().find(name->second);
  if (kernel == kernels().end()) {
    fail("no PTX has", name->second);
  }
  return kernel->second;
}

/* The block that ran has ended. */
void add_block() {
  if (!block_known) {
    return;
  }
  block_known = false;
  Record *record = &records.back();
  const size_t n = static_cast<size_t>(record->kernel->n_blocks);
  const size_t threads = visits.size() / n;
  for (size_t warp = 0; warp < threads; warp += LANES) {
    double issued[3] = {0.0, 0.0, 0.0};
    for (size_t b = 0; b < n; ++b) {
      uint32_t most = 0;
      for (size_t t = warp; t < std::min(threads, warp + LANES); ++t) {
        most = std::max(most, visits[t * n + b]);
      }
      const played_weight &weight = record->kernel->weights[b];
      for (int i = 0; i < 3; ++i) {
        issued[i] += most * static_cast<double>(weight.instructions[i]);
      }
      record->requests += static_cast<int64_t>(most) * weight.requests;
    }
    for (int i = 0; i < 3; ++i) {
      record->issued[i] += issued[i];
    }
    record->longest = std::max(record->longest, issued[1]);
  }
}

bool launched(const char *kernel, const unsigned grid[3], const unsigned block[3],
              size_t shared_bytes) {
  char text[400];
  snprintf(text, sizeof text,
           "\"kernel\": \"%s\", \"grid\": [%u, %u, %u], \"block\": [%u, %u, %u], \"room\": %zu",
           kernel, grid[0], grid[1], grid[2], block[0], block[1], block[2], shared_bytes);
  records.push_back({text, NULL, {0.0, 0.0, 0.0}, 0.0, 0});
  block_known = false;
  return true;
}
void ended() { add_block(); }

bool multiplied(av_emulated_matrix, av_emulated_matrix, av_emulated_matrix, int, bool) {
  return true;
}
void moved(const void *, const void *, size_t) {}
void memory(const void *, size_t, bool) {}

const av_emulated_watch watch = {launched, ended, multiplied, moved, memory};

}  // namespace

bool played_add(const played_kernel *kernel) {
  if (!kernels().emplace(kernel->name, kernel).second) {
    fail("two files have", kernel->name);
  }
  return true;
}

av_emulated_play av_emulated_instead(void (*function)()) { return played_of(function)->play; }

uint32_t *played_thread(const played_kernel *kernel) {
  const size_t n = static_cast<size_t>(kernel->n_blocks);
  const unsigned here[3] = {blockIdx.x, blockIdx.y, blockIdx.z};
  if (!block_known || !std::equal(here, here + 3, block_now)) {
    add_block();
    std::copy(here, here + 3, block_now);
    block_known = true;
    records.back().kernel = kernel;
    visits.assign(n * blockDim.x * blockDim.y * blockDim.z, 0);
  }
  return &visits[n * (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z))];
}

void count_begin(bool run) {
  if (!run) {
    fail("lists nothing:", "gpu_roofline_list does");
  }
  av_emulate_watch(&watch);
}
void count_cold(void) {}
void count_again(void) { records.clear(); }

void count_write(FILE *out) {
  for (const Record &record : records) {
    fprintf(out,
            "{%s, \"issued\": [%.0f, %.0f, %.0f], \"longest\": %.0f, \"requests\": %" PRId64
            ", \"registers\": %d, \"static\": %d}\n",
            record.text.c_str(), record.issued[0], record.issued[1], record.issued[2],
            record.longest, record.requests, record.kernel->registers, record.kernel->shared);
  }
}
