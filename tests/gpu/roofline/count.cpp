#include "count.h"

#include "emulate.h"
#include "memory.h"

#include <algorithm>
#include <cuda_runtime.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string>
#include <vector>

extern "C" char __executable_start, etext;

namespace {

/* Device memory, sector by sector. */
struct Sector {
  uint32_t block[2];  /* that has last loaded, or stored */
  uint32_t launch[2]; /* likewise */
  int64_t clock;      /* when a launch has last touched it; -1: none has */
  bool device, dirty;
};
const unsigned CHUNK_BITS = 20;
const size_t CHUNK_SECTORS = (static_cast<size_t>(1) << CHUNK_BITS) / COUNT_SECTOR;
const size_t CHUNKS = static_cast<size_t>(1) << (47 - CHUNK_BITS);
Sector **chunks; /* of the address space; NULL: no device memory */
std::vector<Sector *> made_chunks;

struct Record {
  std::string text; /* what it was, as JSON without the braces */
  count_memory memory;
  std::vector<std::pair<size_t, uint64_t>> visits; /* of basic blocks: place, times */
};
std::vector<Record> records;
Record *open_record; /* that accesses are counted to */
bool running;

uint32_t launches, blocks_seen; /* numbers, from 1, of the present ones */
int64_t clock_now;              /* sectors touched by launches so far */
int64_t clock_start;            /* ... when the present one began */

std::vector<uint64_t> visits_of; /* (text) */
unsigned block_now[3];
bool block_known;
const char *shared_now; /* the launch's dynamic shared memory */
size_t shared_bytes_now;
char *statics_begin, *statics_end; /* all static shared arrays */

size_t place_of(const void *pc) {
  return static_cast<size_t>(static_cast<const char *>(pc) - &__executable_start);
}
Sector *sector_of(uintptr_t at) {
  Sector *chunk = chunks[at >> CHUNK_BITS & (CHUNKS - 1)];
  if (chunk == NULL) {
    return NULL;
  }
  Sector *sector = &chunk[at % (static_cast<uintptr_t>(1) << CHUNK_BITS) / COUNT_SECTOR];
  return sector->device ? sector : NULL;
}

void follow_block() {
  const unsigned here[3] = {blockIdx.x, blockIdx.y, blockIdx.z};
  if (block_known && std::equal(here, here + 3, block_now)) {
    return;
  }
  std::copy(here, here + 3, block_now);
  block_known = true;
  ++blocks_seen;
  shared_now = static_cast<const char *>(av_emulated_shared());
}

/* The present launch touches a sector; `kernel`: a thread of it does. */
void touch(Sector *sector, bool store, bool kernel) {
  count_memory *memory = &open_record->memory;
  if (kernel && sector->block[store] != blocks_seen) {
    sector->block[store] = blocks_seen;
    ++memory->by_blocks[store];
  }
  if (sector->launch[0] != launches && sector->launch[1] != launches) {
    const bool gone =
        sector->clock < 0 || clock_start - sector->clock > COUNT_CACHE_BYTES / COUNT_SECTOR;
    if (gone) {
      memory->memory[0] += store ? 0 : 1; /* whole sectors are stored without being loaded */
      memory->memory[1] += sector->dirty ? 1 : 0;
      sector->dirty = false;
    }
    sector->clock = clock_start;
    ++clock_now;
  }
  if (sector->launch[store] != launches) {
    sector->launch[store] = launches;
    ++memory->sectors[store];
  }
  sector->dirty |= store;
}

bool is_shared(const char *at) {
  return (at >= statics_begin && at < statics_end) ||
         (at >= shared_now && at < shared_now + shared_bytes_now);
}

void access(const void *at, size_t bytes, bool store) {
  if (open_record == NULL) {
    return;
  }
  follow_block();
  count_memory *memory = &open_record->memory;
  Sector *sector = sector_of(reinterpret_cast<uintptr_t>(at));
  if (sector != NULL) {
    memory->bytes[store] += static_cast<int64_t>(bytes);
    touch(sector, store, true);
  } else if (is_shared(static_cast<const char *>(at))) {
    memory->shared[store] += static_cast<int64_t>(bytes);
  }
}

void touch_range(const void *from, size_t bytes, bool store) {
  const uintptr_t first = reinterpret_cast<uintptr_t>(from);
  for (uintptr_t at = first / COUNT_SECTOR * COUNT_SECTOR; at < first + bytes; at += COUNT_SECTOR) {
    Sector *sector = sector_of(at);
    if (sector != NULL) {
      touch(sector, store, false);
    }
  }
  open_record->memory.bytes[store] += static_cast<int64_t>(bytes);
}

void touch_matrix(av_emulated_matrix matrix, bool store) {
  for (int j = 0; j < matrix.columns; ++j) {
    touch_range(matrix.at + static_cast<size_t>(j) * static_cast<size_t>(matrix.stride),
                static_cast<size_t>(matrix.rows) * sizeof(float), store);
  }
}

void open(const char *format, ...) __attribute__((format(printf, 1, 2)));
void open(const char *format, ...) {
  char text[400];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  records.push_back({text, {}, {}});
  open_record = &records.back();
  ++launches;
  ++blocks_seen;
  clock_start = clock_now;
  block_known = false;
}

bool launched(const char *kernel, const unsigned grid[3], const unsigned block[3],
              size_t shared_bytes) {
  open("\"kernel\": \"%s\", \"grid\": [%u, %u, %u], \"block\": [%u, %u, %u], \"room\": %zu", kernel,
       grid[0], grid[1], grid[2], block[0], block[1], block[2], shared_bytes);
  shared_bytes_now = shared_bytes;
  if (!running) {
    open_record = NULL;
  }
  return running;
}

void ended() {
  for (size_t place = 0; place < visits_of.size(); ++place) {
    if (visits_of[place] > 0) {
      open_record->visits.emplace_back(place, visits_of[place]);
      visits_of[place] = 0;
    }
  }
  open_record = NULL;
}

bool multiplied(av_emulated_matrix a, av_emulated_matrix b, av_emulated_matrix c, int k,
                bool added) {
  open("\"product\": [%d, %d, %d], \"added\": %s", c.rows, c.columns, k, added ? "true" : "false");
  if (running) {
    touch_matrix(a, false);
    touch_matrix(b, false);
    if (added) {
      touch_matrix(c, false);
    }
    touch_matrix(c, true);
  }
  open_record = NULL;
  return running;
}

void moved(const void *to, const void *from, size_t bytes) {
  const bool out = from != NULL && sector_of(reinterpret_cast<uintptr_t>(to)) == NULL;
  const bool in = from != NULL && sector_of(reinterpret_cast<uintptr_t>(from)) == NULL;
  open("\"%s\": %zu", from == NULL ? "memset" : in ? "to device" : out ? "to host" : "copy", bytes);
  if (running && !out) {
    touch_range(to, bytes, true);
  }
  if (running && from != NULL && !in) {
    touch_range(from, bytes, false);
  }
  open_record = NULL;
}

void memory(const void *at, size_t bytes, bool taken) {
  const uintptr_t first = reinterpret_cast<uintptr_t>(at);
  for (uintptr_t byte = first / COUNT_SECTOR * COUNT_SECTOR; byte < first + bytes;
       byte += COUNT_SECTOR) {
    Sector **chunk = &chunks[byte >> CHUNK_BITS & (CHUNKS - 1)];
    if (*chunk == NULL) {
      *chunk = static_cast<Sector *>(calloc(CHUNK_SECTORS, sizeof(Sector)));
      if (*chunk == NULL) {
        abort();
      }
      made_chunks.push_back(*chunk);
    }
    (*chunk)[byte % (static_cast<uintptr_t>(1) << CHUNK_BITS) / COUNT_SECTOR] = {
        {0, 0}, {0, 0}, -1, taken, false};
  }
}

const av_emulated_watch watch = {launched, ended, multiplied, moved, memory};

void write_pair(FILE *out, const char *name, const int64_t pair[2]) {
  fprintf(out, ", \"%s\": [%" PRId64 ", %" PRId64 "]", name, pair[0], pair[1]);
}

}  // namespace

void count_begin(bool run) {
  chunks = static_cast<Sector **>(calloc(CHUNKS, sizeof *chunks)); /* pages come as they are used */
  if (chunks == NULL) {
    abort();
  }
  visits_of.assign(place_of(&etext), 0);
  av_emulated_static_shared(&statics_begin, &statics_end);
  running = run;
  av_emulate_watch(&watch);
}

void count_cold(void) {
  for (Sector *chunk : made_chunks) {
    for (size_t s = 0; s < CHUNK_SECTORS; ++s) {
      chunk[s].clock = -1;
      chunk[s].dirty = false;
    }
  }
}

void count_again(void) { records.clear(); }

void count_write(FILE *out) {
  for (const Record &record : records) {
    fprintf(out, "{%s", record.text.c_str());
    if (running) {
      write_pair(out, "bytes", record.memory.bytes);
      write_pair(out, "shared", record.memory.shared);
      write_pair(out, "by_blocks", record.memory.by_blocks);
      write_pair(out, "sectors", record.memory.sectors);
      write_pair(out, "memory", record.memory.memory);
      const char *separator = ", \"visits\": {";
      for (const auto &visit : record.visits) {
        fprintf(out, "%s\"%zx\": %" PRIu64, separator,
                visit.first + reinterpret_cast<size_t>(&__executable_start), visit.second);
        separator = ", ";
      }
      fprintf(out, "%s", record.visits.empty() ? "" : "}");
    }
    fprintf(out, "}\n");
  }
}

/* What instrumented kernels call. */
extern "C" {
void __sanitizer_cov_trace_pc();
void __sanitizer_cov_trace_pc() {
  if (open_record != NULL) {
    ++visits_of[place_of(__builtin_return_address(0))];
  }
}

void __tsan_init();
void __tsan_init() {}
void __tsan_func_entry(void *);
void __tsan_func_entry(void *) {}
void __tsan_func_exit();
void __tsan_func_exit() {}
void __tsan_vptr_update(void **, void *);
void __tsan_vptr_update(void **, void *) {}
/* What launchers share: counts of owners. Of kernels there are no such, or this does not link. */
int __tsan_atomic32_fetch_add(volatile int *, int, int);
int __tsan_atomic32_fetch_add(volatile int *at, int more, int order) {
  (void)order;
  return __atomic_fetch_add(at, more, __ATOMIC_SEQ_CST);
}

#define AV_ACCESS(name, bytes, store) \
  void name(void *);                  \
  void name(void *at) { access(at, bytes, store); }
#define AV_ACCESSES(bytes)                              \
  AV_ACCESS(__tsan_read##bytes, bytes, false)           \
  AV_ACCESS(__tsan_write##bytes, bytes, true)           \
  AV_ACCESS(__tsan_unaligned_read##bytes, bytes, false) \
  AV_ACCESS(__tsan_unaligned_write##bytes, bytes, true)
AV_ACCESSES(1)
AV_ACCESSES(2)
AV_ACCESSES(4)
AV_ACCESSES(8)
AV_ACCESSES(16)

#define AV_RANGE(name, store) \
  void name(void *, size_t);  \
  void name(void *at, size_t bytes) { access(at, bytes, store); }
AV_RANGE(__tsan_read_range, false)
AV_RANGE(__tsan_write_range, true)
}
