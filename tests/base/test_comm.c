/* Agreement and broadcasts; run on 1, 2 and 3 ranks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/comm.h"
#include "base/memory.h"
#include "data/names.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static av_comm comm;

static void all_fine(void **unused) {
  (void)unused;
  av_error_clear();
  assert_int_equal(av_agree(&comm, AV_OK), AV_OK);
  assert_string_equal(av_error_text(), "");
}

/* Each rank in turn fails alone: all get its code and its text. */
static void one_fails(void **unused) {
  (void)unused;
  for (int failing = 0; failing < comm.size; ++failing) {
    av_error_clear();
    av_status mine = AV_OK;
    if (comm.rank == failing) {
      mine = av_fail(AV_BADDATA, "row %d is bad", failing);
    }
    char text[64];
    snprintf(text, sizeof text, "row %d is bad", failing);
    assert_int_equal(av_agree(&comm, mine), AV_BADDATA);
    assert_string_equal(av_error_text(), text);
  }
  av_error_clear();
}

/* All fail differently: the lowest rank's failure counts, with all its lines. */
static void all_fail(void **unused) {
  (void)unused;
  static const av_status codes[] = {AV_CONFIG, AV_IOERR, AV_NOMEM};
  av_error_clear();
  av_fail(AV_CONFIG, "first of rank %d", comm.rank);
  const av_status mine = av_fail(codes[comm.rank % 3], "second of rank %d", comm.rank);
  assert_int_equal(av_agree(&comm, mine), AV_CONFIG);
  assert_string_equal(av_error_text(), "first of rank 0\nsecond of rank 0");
  av_error_clear();
}

/* A text of 1 MB arrives whole; a rank's own text of before is gone. */
static void long_text_of_the_last(void **unused) {
  (void)unused;
  const size_t length = 1000000;
  char *text = malloc(length + 1);
  assert_non_null(text);
  memset(text, 'x', length);
  text[length] = '\0';
  av_error_clear();
  av_status mine = AV_OK;
  if (comm.rank == comm.size - 1) {
    mine = av_fail(AV_IOERR, "%s", text);
  }
  assert_int_equal(av_agree(&comm, mine), AV_IOERR);
  assert_string_equal(av_error_text(), text);
  av_error_clear();
  free(text);
}

static void sums_and_extremes(void **unused) {
  (void)unused;
  const int64_t n = comm.size;
  int64_t sums[2] = {comm.rank + 1, INT64_C(1) << 40};
  double least[1] = {comm.rank + 1};
  double most[1] = {comm.rank + 1};
  int64_t most_int[1] = {-comm.rank};
  assert_int_equal(av_sum_i64(&comm, sums, 2), AV_OK);
  assert_int_equal(av_min_f64(&comm, least, 1), AV_OK);
  assert_int_equal(av_max_f64(&comm, most, 1), AV_OK);
  assert_int_equal(av_max_i64(&comm, most_int, 1), AV_OK);
  assert_true(sums[0] == n * (n + 1) / 2);
  assert_true(sums[1] == n << 40);
  assert_true(least[0] == 1 && most[0] == (double)n && most_int[0] == 0);
}

static void text_travels(void **unused) {
  (void)unused;
  static const char *const texts[] = {"", "obs/cell_type", "caf\xc3\xa9\n[model]\n"};
  for (int i = 0; i < 3; ++i) {
    char *text = comm.rank == 0 ? av_strdup(texts[i]) : NULL;
    assert_int_equal(av_bcast_text(&comm, &text), AV_OK);
    assert_string_equal(text, texts[i]);
    free(text);
  }
  char here[] = "left over";
  char *none = comm.rank == 0 ? NULL : here;
  assert_int_equal(av_bcast_text(&comm, &none), AV_OK);
  assert_null(none);
}

static void names_travel(void **unused) {
  (void)unused;
  static const char *const genes[] = {"ISG15", "", "HLA-DRA", NULL, "CCL8"};
  static const char *const want[] = {"ISG15", "", "HLA-DRA", "", "CCL8"};
  for (int64_t n = 0; n <= 5; n += 5) {
    av_names names = {0};
    if (comm.rank == 0) {
      assert_int_equal(av_names_copy(&names, n, genes), AV_OK);
    }
    assert_int_equal(av_names_bcast(&comm, &names), AV_OK);
    assert_true(names.n == n);
    for (int64_t i = 0; i < n; ++i) {
      assert_string_equal(names.at[i], want[i]);
    }
    av_names_free(&names);
  }
}

enum { TAG_ASKED = 9 };

/* Tells the last rank, once. */
static void say_asked(void *context) {
  bool *asked = context;
  if (!*asked && comm.rank < comm.size - 1) {
    MPI_Send(NULL, 0, MPI_BYTE, comm.size - 1, TAG_ASKED, comm.mpi);
  }
  *asked = true;
}

/* Agreements, sums, broadcasts and messages, each of which the last rank comes to when the others
 * have asked their listener: without asking they would wait for ever. */
static void exchange(const av_comm *with, int which) {
  double sum = 1;
  int64_t value = with->rank == 0 ? 7 : 0;
  int64_t message = 0;
  MPI_Request request = MPI_REQUEST_NULL;
  const bool last = with->rank == with->size - 1;
  for (int rank = 0; last && with->listener.ask != NULL && rank < with->size - 1; ++rank) {
    MPI_Recv(NULL, 0, MPI_BYTE, rank, TAG_ASKED, with->mpi, MPI_STATUS_IGNORE);
  }
  switch (which) {
    case 0:
      assert_int_equal(av_agree(with, AV_OK), AV_OK);
      break;
    case 1:
      assert_int_equal(av_sum_f64(with, &sum, 1), AV_OK);
      assert_true(sum == (double)with->size);
      break;
    case 2:
      assert_int_equal(av_bcast(with, &value, (int64_t)sizeof value), AV_OK);
      assert_int_equal(value, 7);
      break;
    default: /* from the last to all others */
      if (!last) {
        MPI_Irecv(&message, 1, MPI_INT64_T, with->size - 1, 0, with->mpi, &request);
        assert_int_equal(av_wait(with, &request), AV_OK);
        assert_int_equal(message, 8);
      }
      message = 8;
      for (int to = 0; last && to < with->size - 1; ++to) {
        MPI_Isend(&message, 1, MPI_INT64_T, to, 0, with->mpi, &request);
        assert_int_equal(av_wait(with, &request), AV_OK);
      }
  }
}

/* Who waits asks its listener; without one nothing else comes out. */
static void waiting_asks(void **unused) {
  (void)unused;
  for (int which = 0; which < 4; ++which) {
    bool asked = false;
    av_comm asking = comm;
    asking.listener = (av_listener){.ask = say_asked, .context = &asked};
    exchange(&comm, which);
    exchange(&asking, which);
  }
}

/* A fault of MPI is our code's: internal error, no raw stack. */
static void mpi_faults(void **unused) {
  (void)unused;
  av_error_clear();
  int value = 0;
  assert_int_equal(AV_MPI(MPI_Bcast(&value, 1, MPI_INT, comm.size, comm.mpi)), AV_BUG);
  assert_non_null(strstr(av_error_text(), "internal error at "));
  assert_non_null(strstr(av_error_text(), "MPI_Bcast"));
  assert_non_null(strstr(av_error_text(), "MPI_ERR_ROOT"));
  av_error_clear();
}

static void error_lines(void **unused) {
  (void)unused;
  av_error_clear();
  assert_int_equal(av_fail(AV_NOINPUT, "%s: no such file", "a.h5ad"), AV_NOINPUT);
  av_fail(AV_CONFIG, "run.ini:%d: unknown key", 12);
  assert_string_equal(av_error_text(), "a.h5ad: no such file\nrun.ini:12: unknown key");
  FILE *file = tmpfile();
  assert_non_null(file);
  fflush(stderr);
  const int saved = dup(2);
  assert_true(saved >= 0 && dup2(fileno(file), 2) == 2);
  av_error_print();
  assert_true(dup2(saved, 2) == 2);
  close(saved);
  char text[200] = "";
  rewind(file);
  const size_t length = fread(text, 1, sizeof text - 1, file);
  text[length] = '\0';
  fclose(file);
  assert_string_equal(text,
                      "atlasvi: error: a.h5ad: no such file\n"
                      "atlasvi: error: run.ini:12: unknown key\n");
  assert_string_equal(av_error_text(), "");
}

/* Bytes that a rank sends at least: each of n numbers on to the others and back, divided evenly. */
static void traffic_counted(void **unused) {
  (void)unused;
  av_traffic traffic = {0};
  av_comm counting = comm;
  counting.traffic = &traffic;
  double values[12] = {0};
  int64_t whole[5] = {0};
  float few[6] = {(float)comm.rank, -1.0f, 0.5f};
  assert_int_equal(av_sum_f64(&counting, values, 12), AV_OK);
  assert_int_equal(av_max_i64(&counting, whole, 5), AV_OK);
  assert_int_equal(av_max_f32(&counting, few, 6), AV_OK);
  assert_true(few[0] == (float)(comm.size - 1) && few[1] == -1.0f && few[2] == 0.5f);
  assert_int_equal(av_sum_f32(&counting, few, 3), AV_OK);
  assert_true(few[0] == (float)((comm.size - 1) * comm.size) && few[1] == (float)-comm.size);
  static const int64_t bytes[] = {0, 0, 172, 229}; /* of 96, 40, 24, 12: 2 (ranks - 1) / ranks */
  if (comm.size == 1) {
    assert_int_equal(traffic.operations, 0);
    assert_int_equal(traffic.bytes, 0);
    assert_true(traffic.seconds == 0.0);
  } else if (comm.size <= 3) {
    assert_int_equal(traffic.operations, 4);
    assert_int_equal(traffic.bytes, bytes[comm.size]);
    assert_true(traffic.seconds > 0.0);
  }
  assert_int_equal(av_sum_f64(&comm, values, 12), AV_OK); /* nobody counts */
}

int main(int argc, char **argv) {
  if (av_comm_create(&comm, &argc, &argv) != AV_OK) {
    return 1;
  }
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(all_fine),          cmocka_unit_test(one_fails),
      cmocka_unit_test(all_fail),          cmocka_unit_test(long_text_of_the_last),
      cmocka_unit_test(sums_and_extremes), cmocka_unit_test(text_travels),
      cmocka_unit_test(names_travel),      cmocka_unit_test(mpi_faults),
      cmocka_unit_test(error_lines),       cmocka_unit_test(traffic_counted),
      cmocka_unit_test(waiting_asks),
  };
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  av_comm_free(&comm);
  return failed;
}
