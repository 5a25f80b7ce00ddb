/* What the emulation tells AddressSanitizer, where there is none: in the module that a program
 * without it loads. */
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>

extern "C" {
void __asan_poison_memory_region(void const volatile *, size_t) {}
void __asan_unpoison_memory_region(void const volatile *, size_t) {}
void *__asan_region_is_poisoned(void *, size_t) { return nullptr; }
void __asan_report_error(void *, void *, void *, void *, int, size_t) {}
void __sanitizer_start_switch_fiber(void **, const void *, size_t) {}
void __sanitizer_finish_switch_fiber(void *, const void **, size_t *) {}
}
