/* The kernels of one instruction set. */
#include "backend/cpu/kernels/kernels.h"

#define AV_TEXT2(x) #x
#define AV_TEXT(x) AV_TEXT2(x)
#define AV_KERNEL_ENTRY(type, name, args) .name = AV_KERNEL(name),

const av_kernels AV_PASTE(av_kernels, AV_ISA) = {
    .instructions = AV_TEXT(AV_ISA) + 1, /* without the underscore */
    AV_KERNEL_LIST(AV_KERNEL_ENTRY)};
