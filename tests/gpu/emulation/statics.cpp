/* Where static __shared__ arrays lie: the section .noinit, which holds nothing else. */
#include "memory.h"

#include <elf.h>
#include <link.h>
#include <stdio.h>
#include <string.h>
#include <vector>

/* The program or library that this function is part of. */
struct Object {
  const char *path;
  uintptr_t bias; /* of its addresses */
};

static int is_ours(struct dl_phdr_info *info, size_t, void *object) {
  const uintptr_t here = reinterpret_cast<uintptr_t>(&is_ours) - info->dlpi_addr;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr) &part = info->dlpi_phdr[i];
    if (part.p_type == PT_LOAD && here >= part.p_vaddr && here - part.p_vaddr < part.p_memsz) {
      const bool program = info->dlpi_name == NULL || *info->dlpi_name == '\0';
      *static_cast<Object *>(object) = {program ? "/proc/self/exe" : info->dlpi_name,
                                        info->dlpi_addr};
      return 1;
    }
  }
  return 0;
}

static bool read_at(FILE *file, uint64_t at, void *to, size_t bytes) {
  return fseek(file, static_cast<long>(at), SEEK_SET) == 0 && fread(to, 1, bytes, file) == bytes;
}

static void find_section(FILE *file, uintptr_t bias, const char *name, char **begin, char **end) {
  ElfW(Ehdr) header;
  if (!read_at(file, 0, &header, sizeof header) || header.e_shnum == 0) {
    return;
  }
  std::vector<ElfW(Shdr)> sections(header.e_shnum);
  read_at(file, header.e_shoff, sections.data(), sections.size() * sizeof sections[0]);
  const ElfW(Shdr) &strings = sections[header.e_shstrndx];
  std::vector<char> names(strings.sh_size + 1);
  read_at(file, strings.sh_offset, names.data(), strings.sh_size);
  for (const auto &section : sections) {
    if (section.sh_name < strings.sh_size && strcmp(&names[section.sh_name], name) == 0) {
      *begin = reinterpret_cast<char *>(bias + section.sh_addr);
      *end = *begin + section.sh_size;
    }
  }
}

void av_emulated_static_shared(char **begin, char **end) {
  *begin = *end = NULL;
  Object object = {"", 0};
  dl_iterate_phdr(is_ours, &object);
  FILE *file = fopen(object.path, "rb");
  if (file != NULL) {
    find_section(file, object.bias, ".noinit", begin, end);
    fclose(file);
  }
}
