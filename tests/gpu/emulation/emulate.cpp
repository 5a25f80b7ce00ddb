/* Runs grids: blocks one after the other, threads of a block as fibers that take turns at barriers
 * and warp operations. */
#include "memory.h"

#include "cuda_runtime.h"
#include "fiber.h"
#include "graphs.h"

#include <algorithm>
#include <numeric>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string>
#include <vector>

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace {

const unsigned LANES = 32;
const unsigned MOST_THREADS = 1024;
const unsigned MOST_SHARED = 227 * 1024; /* of an H100 */
const unsigned PLAIN_SHARED = 48 * 1024;

enum State : unsigned char { FRESH, READY, AT_BARRIER, IN_WARP, ENDED };

struct Thread {
  State state;
  Fiber *fiber; /* that has begun it */
  uint3 index;
  const char *file; /* where it waits */
  int line;
  uint64_t word; /* what it brings to a warp operation, and takes from it */
  int from;
};

/* A warp operation that some of its lanes have reached. */
struct Meeting {
  av_emulated_call call;
  unsigned mask, arrived;
};

struct Warp {
  std::vector<Meeting> open;
};

struct Grid {
  const char *name;
  void (*body)(void *);
  void *argument;
  size_t n_blocks, at_block;
  std::vector<size_t> block_order;
  unsigned n; /* threads of a block */
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<unsigned> order, place; /* threads by turn, and the turn of each */
  unsigned turn;                      /* where to look for the next thread */
  unsigned running, at_barrier, ended;
  char *shared;
  size_t shared_bytes;
};

bool in_grid;
Grid grid;
Fiber *main_fiber;
Fiber *current;
std::vector<Fiber *> idle; /* fibers without a thread */

bool order_known;
av_emulated_order order;
uint64_t shuffle_state;
av_emulated_counts counts;

bool same_text(const char *a, const char *b) { return a == b || strcmp(a, b) == 0; }

/* splitmix64 */
uint64_t random_word() {
  uint64_t z = (shuffle_state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

template <typename T>
void arrange(T *first, size_t n) {
  if (order == AV_ORDER_DESCENDING) {
    std::reverse(first, first + n);
  } else if (order == AV_ORDER_SHUFFLED) {
    for (size_t i = n; i > 1; --i) {
      std::swap(first[i - 1], first[random_word() % i]);
    }
  }
}

void order_from_environment() {
  const char *text = getenv("AV_EMULATED_ORDER");
  if (order_known || text == NULL || *text == '\0' || strcmp(text, "ascending") == 0) {
    return;
  }
  if (strcmp(text, "descending") == 0) {
    av_emulate_order(AV_ORDER_DESCENDING, 0);
  } else {
    av_emulate_order(AV_ORDER_SHUFFLED, strtoull(text, NULL, 10));
  }
}

/* Warps stay together: each in its turn runs up to the next barrier. */
void arrange_threads() {
  const unsigned n_warps = (grid.n + LANES - 1) / LANES;
  std::vector<unsigned> warps(n_warps);
  std::iota(warps.begin(), warps.end(), 0u);
  arrange(warps.data(), warps.size());
  grid.order.clear();
  for (unsigned w : warps) {
    const size_t first = grid.order.size();
    for (unsigned t = w * LANES; t < std::min(grid.n, (w + 1) * LANES); ++t) {
      grid.order.push_back(t);
    }
    arrange(grid.order.data() + first, grid.order.size() - first);
  }
  for (unsigned i = 0; i < grid.n; ++i) {
    grid.place[grid.order[i]] = i;
  }
}

/* Not through memset: it would see AddressSanitizer's red zones between the arrays. */
void fill_statics() {
  static char *begin;
  static char *end;
  static bool known;
  if (!known) {
    known = true;
    av_emulated_static_shared(&begin, &end);
  }
#ifdef __x86_64__
  void *at = begin;
  size_t words = static_cast<size_t>(end - begin) / 8;
  __asm__ volatile("rep stosq" : "+D"(at), "+c"(words) : "a"(~static_cast<uint64_t>(0)) : "memory");
#else
  for (volatile uint64_t *at = reinterpret_cast<volatile uint64_t *>(begin);
       at < reinterpret_cast<volatile uint64_t *>(end); ++at) {
    *at = ~static_cast<uint64_t>(0);
  }
#endif
}

void begin_block(size_t number) {
  const size_t b = grid.block_order.empty() ? number : grid.block_order[number];
  blockIdx.x = static_cast<unsigned>(b % gridDim.x);
  blockIdx.y = static_cast<unsigned>(b / gridDim.x % gridDim.y);
  blockIdx.z = static_cast<unsigned>(b / gridDim.x / gridDim.y);
  fill_statics();
  memset(grid.shared, 0xff, grid.shared_bytes);
  for (unsigned t = 0; t < grid.n; ++t) {
    grid.threads[t].state = FRESH;
  }
  if (order == AV_ORDER_SHUFFLED && number > 0) {
    arrange_threads();
  }
  grid.turn = grid.ended = grid.at_barrier = 0;
  ++counts.blocks;
  counts.threads += grid.n;
}

/* The next thread in turn that can go on; -1 if all have ended. */
int next_thread() {
  for (unsigned i = 0; i < grid.n; ++i) {
    const unsigned turn = grid.turn < grid.n ? grid.turn : 0;
    const unsigned t = grid.order[turn];
    if (grid.threads[t].state <= READY) {
      grid.turn = turn; /* where it waits again, its successors are next */
      return static_cast<int>(t);
    }
    grid.turn = turn + 1;
  }
  if (grid.ended == grid.n) {
    return -1;
  }
  std::string waits;
  for (const Warp &warp : grid.warps) {
    for (const Meeting &m : warp.open) {
      char text[300];
      snprintf(text, sizeof text, "\n  warp %d: lanes 0x%x of the mask 0x%x wait in %s at %s:%d",
               static_cast<int>(&warp - grid.warps.data()), m.arrived, m.mask, m.call.name,
               m.call.file, m.call.line);
      waits += text;
    }
  }
  av_emulate_fail("a warp operation is not reached by all lanes of its mask:%s", waits.c_str());
}

void enter(unsigned t) {
  grid.running = t;
  threadIdx = grid.threads[t].index;
}

Thread &self() { return grid.threads[grid.running]; }

void switch_to(Fiber *to) {
  Fiber *from = current;
  current = to;
  ++counts.switches;
  fiber_switch(from, to);
}

void worker();

/* The running thread waits: others run until it is its turn again. */
void wait_turn() {
  const unsigned mine = grid.running;
  const int next = next_thread();
  if (next != static_cast<int>(mine)) {
    Thread &other = grid.threads[next];
    enter(static_cast<unsigned>(next));
    if (other.state == READY) {
      switch_to(other.fiber);
    } else {
      if (idle.empty()) {
        idle.push_back(fiber_create(worker));
      }
      Fiber *fresh = idle.back();
      idle.pop_back();
      switch_to(fresh);
    }
  }
}

/* The running thread goes where no warp operation of its lane can be reached any more. */
void check_meetings(const char *where) {
  const unsigned t = grid.running;
  for (const Meeting &m : grid.warps[t / LANES].open) {
    if (m.mask >> (t % LANES) & 1u) {
      av_emulate_fail(
          "%s at %s:%d is not reached by all lanes of its mask 0x%x: lanes 0x%x wait "
          "there, this one %s",
          m.call.name, m.call.file, m.call.line, m.mask, m.arrived, where);
    }
  }
}

void end_thread() {
  check_meetings("has ended");
  if (grid.at_barrier > 0) {
    for (unsigned t = 0; t < grid.n; ++t) {
      if (grid.threads[t].state == AT_BARRIER) {
        av_emulate_fail(
            "a barrier is not reached by all threads of the block: this one ends, while "
            "thread %u waits in __syncthreads at %s:%d",
            t, grid.threads[t].file, grid.threads[t].line);
      }
    }
  }
  self().state = ENDED;
  ++grid.ended;
}

/* Runs threads that nobody has begun; goes on to the next block when all threads have ended. A
 * kernel without barriers runs here without a switch. */
void worker() {
  for (;;) {
    self().fiber = current;
    grid.body(grid.argument);
    end_thread();
    int next = next_thread();
    if (next < 0) {
      if (++grid.at_block < grid.n_blocks) {
        begin_block(grid.at_block);
        next = next_thread();
      } else {
        idle.push_back(current);
        switch_to(main_fiber);
        continue;
      }
    }
    enter(static_cast<unsigned>(next));
    if (self().state == READY) {
      idle.push_back(current);
      switch_to(self().fiber);
    }
  }
}

void prepare(const char *name, dim3 blocks, dim3 block, size_t shared_bytes) {
  grid.name = name;
  gridDim = blocks;
  blockDim = block;
  grid.n_blocks = static_cast<size_t>(blocks.x) * blocks.y * blocks.z;
  grid.at_block = 0;
  grid.block_order.clear();
  if (order != AV_ORDER_ASCENDING) {
    grid.block_order.resize(grid.n_blocks);
    std::iota(grid.block_order.begin(), grid.block_order.end(), static_cast<size_t>(0));
    arrange(grid.block_order.data(), grid.n_blocks);
  }
  grid.n = block.x * block.y * block.z;
  grid.threads.resize(grid.n);
  grid.place.resize(grid.n);
  grid.warps.resize((grid.n + LANES - 1) / LANES);
  for (unsigned t = 0; t < grid.n; ++t) {
    grid.threads[t].index = {t % block.x, t / block.x % block.y, t / block.x / block.y};
  }
  arrange_threads();
  void *memory = NULL;
  if (posix_memalign(&memory, 128, shared_bytes > 0 ? shared_bytes : 1) != 0) {
    av_emulate_fail("no memory for %zu bytes of shared memory", shared_bytes);
  }
  grid.shared = static_cast<char *>(memory);
  grid.shared_bytes = shared_bytes;
}

bool fits(dim3 blocks, dim3 block, size_t shared_bytes) {
  const unsigned most = static_cast<unsigned>(av_emulated_most_shared());
  const uint64_t threads = static_cast<uint64_t>(block.x) * block.y * block.z;
  return blocks.x > 0 && blocks.y > 0 && blocks.z > 0 && blocks.x <= 0x7fffffffu &&
         blocks.y <= 65535 && blocks.z <= 65535 && block.x > 0 && block.y > 0 && block.z > 0 &&
         block.x <= MOST_THREADS && block.y <= MOST_THREADS && block.z <= 64 &&
         threads <= MOST_THREADS && shared_bytes <= MOST_SHARED &&
         shared_bytes <= std::max(PLAIN_SHARED, most);
}

}  // namespace

const av_emulated_watch *av_emulated_watcher;
void av_emulate_watch(const av_emulated_watch *watch) { av_emulated_watcher = watch; }

void av_emulate_order(av_emulated_order wanted, uint64_t seed) {
  order = wanted;
  shuffle_state = seed;
  order_known = true;
}

av_emulated_counts av_emulate_counts(void) {
  counts.live = av_emulated_live();
  counts.graphs = av_emulated_graphs();
  counts.played = av_emulated_played();
  counts.queued = av_emulated_host_launches();
  av_emulated_count_waits(&counts);
  return counts;
}

bool av_emulated_fits(dim3 blocks, dim3 block, size_t shared_bytes) {
  return fits(blocks, block, shared_bytes);
}

size_t av_emulated_pick(size_t n) {
  return order == AV_ORDER_ASCENDING    ? 0
         : order == AV_ORDER_DESCENDING ? n - 1
                                        : static_cast<size_t>(random_word() % n);
}

void av_emulate_fail(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fflush(stdout);
  fprintf(stderr, "emulation: ");
  if (in_grid) {
    fprintf(stderr,
            "kernel %s, block (%u, %u, %u) of (%u, %u, %u), thread (%u, %u, %u): ", grid.name,
            blockIdx.x, blockIdx.y, blockIdx.z, gridDim.x, gridDim.y, gridDim.z, threadIdx.x,
            threadIdx.y, threadIdx.z);
  }
  vfprintf(stderr, format, arguments);
  fprintf(stderr, "\n");
  va_end(arguments);
  abort();
}

void av_emulate_grid(const char *name, dim3 blocks, dim3 block, size_t shared_bytes,
                     void (*body)(void *), void *argument) {
  if (in_grid) {
    av_emulate_fail("launches %s: kernels that launch kernels are not emulated", name);
  }
  order_from_environment();
  if (!fits(blocks, block, shared_bytes)) {
    fprintf(stderr,
            "emulation: kernel %s: a grid of (%u, %u, %u) blocks of (%u, %u, %u) threads with %zu "
            "bytes of shared memory cannot be launched\n",
            name, blocks.x, blocks.y, blocks.z, block.x, block.y, block.z, shared_bytes);
    av_emulated_set_error(cudaErrorInvalidConfiguration);
    return;
  }
  const unsigned extent[] = {blocks.x, blocks.y, blocks.z, block.x, block.y, block.z};
  if (av_emulated_watcher != NULL &&
      !av_emulated_watcher->launched(name, extent, extent + 3, shared_bytes)) {
    return;
  }
  prepare(name, blocks, block, shared_bytes);
  grid.body = body;
  grid.argument = argument;
  if (main_fiber == NULL) {
    main_fiber = fiber_main();
  }
  if (idle.empty()) {
    idle.push_back(fiber_create(worker));
  }
  ++counts.launches;
  ++av_emulated_clock;
  av_emulated_open_memory();
  in_grid = true;
  begin_block(0);
  enter(static_cast<unsigned>(next_thread()));
  Fiber *first = idle.back();
  idle.pop_back();
  current = main_fiber;
  switch_to(first);
  in_grid = false;
  av_emulated_close_memory();
  free(grid.shared);
  if (av_emulated_watcher != NULL) {
    av_emulated_watcher->ended();
  }
}

void *av_emulated_shared(void) { return grid.shared; }

int av_emulated_lane(void) { return static_cast<int>(grid.running % LANES); }

void av_emulated_barrier(const char *file, int line) {
  Thread &me = self();
  check_meetings("waits in __syncthreads");
  if (grid.ended > 0) {
    av_emulate_fail(
        "a barrier is not reached by all threads of the block: %u of %u have ended, "
        "this one waits in __syncthreads at %s:%d",
        grid.ended, grid.n, file, line);
  }
  if (grid.at_barrier > 0) {
    for (unsigned t = 0; t < grid.n; ++t) {
      const Thread &other = grid.threads[t];
      if (other.state == AT_BARRIER) {
        if (other.line != line || !same_text(other.file, file)) {
          av_emulate_fail(
              "a barrier is not reached by all threads of the block: this one waits in "
              "__syncthreads at %s:%d, thread %u at %s:%d",
              file, line, t, other.file, other.line);
        }
        break;
      }
    }
  }
  me.file = file;
  me.line = line;
  if (++grid.at_barrier == grid.n) {
    for (unsigned t = 0; t < grid.n; ++t) {
      grid.threads[t].state = READY;
    }
    grid.at_barrier = 0;
    grid.turn = 0;
  } else {
    me.state = AT_BARRIER;
  }
  wait_turn();
}

namespace {

Meeting *find_meeting(Warp *warp, const av_emulated_call *call, unsigned mask) {
  for (Meeting &m : warp->open) {
    if (m.mask == mask && m.call.line == call->line && same_text(m.call.name, call->name) &&
        same_text(m.call.file, call->file)) {
      return &m;
    }
  }
  return NULL;
}

/* The first lane to arrive: no lane of the mask may be where it cannot come from. */
Meeting *open_meeting(Warp *warp, const av_emulated_call *call, unsigned mask, unsigned first) {
  for (unsigned lane = 0; lane < LANES; ++lane) {
    if ((mask >> lane & 1u) == 0) {
      continue;
    }
    const unsigned t = first + lane;
    const State state = t < grid.n ? grid.threads[t].state : ENDED;
    if (state == ENDED || state == AT_BARRIER) {
      av_emulate_fail("%s at %s:%d is not reached by lane %u of its mask 0x%x, which %s",
                      call->name, call->file, call->line, lane, mask,
                      t >= grid.n      ? "the block does not have"
                      : state == ENDED ? "has ended"
                                       : "waits in __syncthreads");
    }
  }
  warp->open.push_back({*call, mask, 0});
  return &warp->open.back();
}

/* All are there: each lane's answer, and they go on. */
void settle(Warp *warp, Meeting *meeting, unsigned first) {
  uint64_t words[LANES] = {0};
  uint64_t ballot = 0;
  unsigned earliest = grid.n;
  for (unsigned lane = 0; lane < LANES; ++lane) {
    if (meeting->mask >> lane & 1u) {
      words[lane] = grid.threads[first + lane].word;
      ballot |= (words[lane] & 1u) << lane;
    }
  }
  for (unsigned lane = 0; lane < LANES; ++lane) {
    if ((meeting->mask >> lane & 1u) == 0) {
      continue;
    }
    Thread &thread = grid.threads[first + lane];
    if (meeting->call.kind == AV_WARP_VOTE) {
      thread.word = ballot;
    } else if (meeting->call.kind == AV_WARP_SHUFFLE) {
      const unsigned from = static_cast<unsigned>(thread.from) % LANES;
      if ((meeting->mask >> from & 1u) == 0) {
        av_emulate_fail("%s at %s:%d: lane %u reads from lane %u, which is not in the mask 0x%x",
                        meeting->call.name, meeting->call.file, meeting->call.line, lane, from,
                        meeting->mask);
      }
      thread.word = words[from];
    }
    thread.state = READY;
    earliest = std::min(earliest, grid.place[first + lane]);
  }
  grid.turn = earliest;
  warp->open.erase(warp->open.begin() + (meeting - warp->open.data()));
}

}  // namespace

uint64_t av_emulated_warp_meet(const av_emulated_call *call, unsigned mask, uint64_t word,
                               int from) {
  Thread &me = self();
  Warp *warp = &grid.warps[grid.running / LANES];
  const unsigned lane = grid.running % LANES;
  const unsigned first = grid.running - lane;
  if ((mask >> lane & 1u) == 0) {
    av_emulate_fail("%s at %s:%d: lane %u is not in its own mask 0x%x", call->name, call->file,
                    call->line, lane, mask);
  }
  Meeting *meeting = find_meeting(warp, call, mask);
  if (meeting == NULL) {
    meeting = open_meeting(warp, call, mask, first);
  }
  me.state = IN_WARP;
  me.file = call->file;
  me.line = call->line;
  me.word = word;
  me.from = from;
  meeting->arrived |= 1u << lane;
  if (meeting->arrived == mask) {
    settle(warp, meeting, first);
  }
  wait_turn();
  return me.word;
}
