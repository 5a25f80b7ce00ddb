/* Modules that the program must not take for its own. */
#if defined(OTHER_TYPES)
/* Of a build with other types: to read anything but the text would crash. */
const char av_interface_of_cuda[] = "0.1.0 of other headers";
const void *const av_module_of_cuda[4];
#elif defined(NO_INTERFACE)
/* Of a version that had no such text. */
const void *const av_module_of_cuda[4];
#else
/* A library that is not there when it is needed. */
int av_needed(void);
int av_needed(void) { return 0; }
#endif
