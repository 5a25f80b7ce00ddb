#include "fiber.h"

#include <stdio.h>
#include <sanitizer/common_interface_defs.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef __x86_64__
#include <ucontext.h>
#endif

/* Room for a kernel's thread, and for a report of AddressSanitizer; pages never touched cost
 * nothing. */
static const size_t STACK_BYTES = 256 * 1024;

struct Fiber {
#ifdef __x86_64__
  void *stack_pointer;
#else
  ucontext_t context;
#endif
  const void *bottom;
  size_t bytes;
  void *fake_stack;
  void (*body)();
  Fiber *next; /* of all: none is ever freed, and all stay reachable */
};

static Fiber *all;
static Fiber *previous; /* who has switched to the running fiber */

/* Tells AddressSanitizer that the switch is over, and learns where the main stack lies. */
static void arrive(Fiber *self) {
  __sanitizer_finish_switch_fiber(self->fake_stack, &previous->bottom, &previous->bytes);
}

#ifdef __x86_64__
/* Saves what a call must keep, and the stack pointer; swapcontext would also ask the kernel for the
 * signal mask, twice a switch. */
extern "C" void av_switch_stack(void **save, void *load);
__asm__(
    ".text\n"
    ".globl av_switch_stack\n"
    ".hidden av_switch_stack\n"
    ".type av_switch_stack, @function\n"
    "av_switch_stack:\n"
    "  pushq %rbp\n"
    "  pushq %rbx\n"
    "  pushq %r12\n"
    "  pushq %r13\n"
    "  pushq %r14\n"
    "  pushq %r15\n"
    "  movq %rsp, (%rdi)\n"
    "  movq %rsi, %rsp\n"
    "  popq %r15\n"
    "  popq %r14\n"
    "  popq %r13\n"
    "  popq %r12\n"
    "  popq %rbx\n"
    "  popq %rbp\n"
    "  ret\n"
    ".size av_switch_stack, .-av_switch_stack\n");
#endif

static Fiber *starting;

static void first_steps() {
  Fiber *self = starting;
  arrive(self);
  self->body();
  abort();
}

Fiber *fiber_main() {
  Fiber *made = static_cast<Fiber *>(calloc(1, sizeof *made));
  if (made == NULL) {
    abort();
  }
  made->next = all;
  all = made;
  return made;
}

Fiber *fiber_create(void (*body)()) {
  Fiber *made = fiber_main();
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  char *memory = static_cast<char *>(mmap(NULL, STACK_BYTES + page, PROT_READ | PROT_WRITE,
                                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE) != 0) {
    perror("emulation: stack of a fiber");
    abort();
  }
  made->bottom = memory + page;
  made->bytes = STACK_BYTES;
  made->body = body;
#ifdef __x86_64__
  /* what av_switch_stack takes off: 6 registers, then where to go; above it no caller (0) */
  void **top = reinterpret_cast<void **>(memory + page + STACK_BYTES) - 8;
  top[6] = reinterpret_cast<void *>(&first_steps);
  made->stack_pointer = top;
#else
  getcontext(&made->context);
  made->context.uc_stack.ss_sp = memory + page;
  made->context.uc_stack.ss_size = STACK_BYTES;
  makecontext(&made->context, first_steps, 0);
#endif
  return made;
}

void fiber_switch(Fiber *from, Fiber *to) {
  previous = from;
  starting = to;
  __sanitizer_start_switch_fiber(&from->fake_stack, to->bottom, to->bytes);
#ifdef __x86_64__
  av_switch_stack(&from->stack_pointer, to->stack_pointer);
#else
  swapcontext(&from->context, &to->context);
#endif
  arrive(from);
}
