/* Fibers: stacks that are switched between by hand, known to AddressSanitizer. */
#ifndef AV_EMULATED_FIBER_H
#define AV_EMULATED_FIBER_H

#include <stddef.h>

struct Fiber;

/* A fiber that will run `body` when it is first switched to; body must not return. */
Fiber *fiber_create(void (*body)());
/* The thread's own stack as a fiber. */
Fiber *fiber_main();
/* Leaves the running fiber `from` for `to`; returns when somebody switches to `from`. */
void fiber_switch(Fiber *from, Fiber *to);

#endif
