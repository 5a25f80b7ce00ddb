/* What tests of the cuda backend need beside backend/tested.h. */
#ifndef AV_TESTS_TESTED_CUDA_H
#define AV_TESTS_TESTED_CUDA_H

/* Ends the test as skipped, with status 77, where there is no GPU. */
void need_gpu(void);

#endif
