/* The records that activity.c writes, of activities that a stand-in of CUPTI's few functions hands
 * out here. Expected: the same activities, spelled out. That CUPTI itself behaves so can only be
 * seen on a GPU. */
#include "activity.h"

#include <cupti.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* --- the stand-in --------------------------------------------------------------------------- */

static CUpti_BuffersCallbackRequestFunc give;
static CUpti_BuffersCallbackCompleteFunc take;
static CUpti_Activity *shown[16]; /* of one buffer, in order */
static size_t n_shown, next_shown, lost;
static CUptiResult answer = CUPTI_SUCCESS; /* to cuptiActivityEnable */
static bool enabled[CUPTI_ACTIVITY_KIND_COUNT];

CUptiResult cuptiActivityRegisterCallbacks(CUpti_BuffersCallbackRequestFunc request,
                                           CUpti_BuffersCallbackCompleteFunc complete) {
  give = request;
  take = complete;
  return CUPTI_SUCCESS;
}

CUptiResult cuptiActivityEnable(CUpti_ActivityKind kind) {
  enabled[kind] = answer == CUPTI_SUCCESS;
  return answer;
}

CUptiResult cuptiActivityGetNextRecord(uint8_t *buffer, size_t valid, CUpti_Activity **record) {
  (void)buffer;
  (void)valid;
  *record = next_shown < n_shown ? shown[next_shown] : NULL;
  return next_shown++ < n_shown ? CUPTI_SUCCESS : CUPTI_ERROR_MAX_LIMIT_REACHED;
}

CUptiResult cuptiActivityGetNumDroppedRecords(CUcontext context, uint32_t stream, size_t *dropped) {
  (void)context;
  (void)stream;
  *dropped = lost;
  return CUPTI_SUCCESS;
}

CUptiResult cuptiActivityFlushAll(uint32_t flag) {
  (void)flag;
  return CUPTI_SUCCESS;
}

CUptiResult cuptiGetResultString(CUptiResult code, const char **text) {
  *text = code == CUPTI_ERROR_NOT_INITIALIZED ? "not initialized" : "another";
  return CUPTI_SUCCESS;
}

static void hand_out(size_t n) {
  n_shown = n;
  next_shown = 0;
  uint8_t *buffer = NULL;
  size_t size = 0, most = 1;
  give(&buffer, &size, &most);
  assert_non_null(buffer);
  assert_true(size > 0 && (uintptr_t)buffer % 8 == 0 && most == 0);
  take(NULL, 0, buffer, size, 64);
}

/* --- the test ------------------------------------------------------------------------------- */

static char path[] = "/tmp/atlasvi-activity.XXXXXX";

static activity_record read_record(FILE *file) {
  activity_record record;
  assert_int_equal(fread(&record, sizeof record, 1, file), 1);
  return record;
}

static void expect(FILE *file, activity_record wanted) {
  const activity_record found = read_record(file);
  assert_memory_equal(&found, &wanted, sizeof found);
}

static void expect_name(FILE *file, uint32_t number, const char *name) {
  char text[64] = "";
  expect(file, (activity_record){ACTIVITY_NAME, number, 0, 0, strlen(name)});
  const size_t padded = (strlen(name) + 31) / 32 * 32;
  assert_int_equal(fread(text, 1, padded, file), padded);
  assert_string_equal(text, name);
}

static void records(void **state) {
  (void)state;
  assert_true(mkstemp(path) >= 0);
  assert_int_equal(setenv("ATLASVI_ACTIVITY", path, 1), 0);
  assert_int_equal(InitializeInjection(), 1);
  assert_true(enabled[CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL] &&
              enabled[CUPTI_ACTIVITY_KIND_MEMCPY] && enabled[CUPTI_ACTIVITY_KIND_MEMSET] &&
              enabled[CUPTI_ACTIVITY_KIND_MEMORY2]);

  char text[] = "_Z4adamPf";
  CUpti_ActivityKernel9 adam = {
      .kind = CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, .start = 10, .end = 30, .name = text};
  CUpti_ActivityKernel9 eight = {
      .kind = CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, .start = 31, .end = 40, .name = "_Z5eight"};
  CUpti_ActivityMemcpy5 copy = {.kind = CUPTI_ACTIVITY_KIND_MEMCPY,
                                .start = 41,
                                .end = 50,
                                .bytes = 1024,
                                .copyKind = CUPTI_ACTIVITY_MEMCPY_KIND_HTOD};
  CUpti_ActivityMemset4 set = {
      .kind = CUPTI_ACTIVITY_KIND_MEMSET, .start = 51, .end = 52, .bytes = 256};
  CUpti_ActivityMemory3 taken = {
      .kind = CUPTI_ACTIVITY_KIND_MEMORY2,
      .timestamp = 5,
      .address = 0x7000,
      .bytes = 4096,
      .memoryOperationType = CUPTI_ACTIVITY_MEMORY_OPERATION_TYPE_ALLOCATION,
      .memoryKind = CUPTI_ACTIVITY_MEMORY_KIND_DEVICE};
  CUpti_ActivityMemory3 given = taken;
  given.memoryOperationType = CUPTI_ACTIVITY_MEMORY_OPERATION_TYPE_RELEASE;
  given.timestamp = 60;
  CUpti_ActivityMemory3 host = taken;
  host.memoryKind = CUPTI_ACTIVITY_MEMORY_KIND_PINNED;
  CUpti_Activity *all[] = {(void *)&taken, (void *)&adam, (void *)&eight, (void *)&adam,
                           (void *)&copy,  (void *)&set,  (void *)&host,  (void *)&given};
  memcpy(shown, all, sizeof all);
  hand_out(sizeof all / sizeof *all);
  strcpy(text, "_Z5other"); /* CUPTI's text may go, or be of another kernel */
  lost = 3;
  hand_out(2);
  fflush(NULL);

  FILE *file = fopen(path, "rb");
  assert_non_null(file);
  expect(file, (activity_record){ACTIVITY_TAKEN, 0, 5, 0x7000, 4096});
  expect_name(file, 0, "_Z4adamPf");
  expect(file, (activity_record){ACTIVITY_KERNEL, 0, 10, 30, 0});
  expect_name(file, 1, "_Z5eight");
  expect(file, (activity_record){ACTIVITY_KERNEL, 1, 31, 40, 0});
  expect(file, (activity_record){ACTIVITY_KERNEL, 0, 10, 30, 0});
  expect(file, (activity_record){ACTIVITY_COPY, CUPTI_ACTIVITY_MEMCPY_KIND_HTOD, 41, 50, 1024});
  expect(file, (activity_record){ACTIVITY_SET, 0, 51, 52, 256});
  expect(file, (activity_record){ACTIVITY_RETURNED, 0, 60, 0x7000, 4096});
  expect(file, (activity_record){ACTIVITY_TAKEN, 0, 5, 0x7000, 4096});
  expect_name(file, 2, "_Z5other");
  expect(file, (activity_record){ACTIVITY_KERNEL, 2, 10, 30, 0});
  expect(file, (activity_record){ACTIVITY_LOST, 0, 0, 0, 3});
  assert_int_equal(fgetc(file), EOF);
  fclose(file);
  unlink(path);
}

int main(int argc, char **argv) {
  (void)argv;
  if (argc > 1) { /* a program where CUPTI does not work goes on, and exits as ever */
    answer = CUPTI_ERROR_NOT_INITIALIZED;
    return InitializeInjection() == 1 ? 0 : 1;
  }
  const struct CMUnitTest tests[] = {cmocka_unit_test(records)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
