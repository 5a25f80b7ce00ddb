/* `atlasvi simulate` alone, for the tests of this folder: OUT.h5ad [--block CELLS] [key=value ...].
 */
#include "io/h5.h"
#include "simulate/simulate.h"

#include <stdlib.h>
#include <string.h>

static av_status run(int argc, char **argv) {
  AV_TRY(av_h5_init());
  if (argc < 2) {
    av_sim_settings_help(stdout);
    return AV_OK;
  }
  if (argc > 3 && strcmp(argv[2], "--block") == 0) {
    av_sim_settings settings;
    AV_TRY(av_sim_settings_parse(&settings, argc - 4, argv + 4));
    return av_simulate_file(argv[1], &settings, strtoll(argv[3], NULL, 10), stdout);
  }
  return av_simulate(argv[1], argc - 2, argv + 2, stdout);
}

/* No MPI here: it needs larger files than the limits that faults.sh sets. */
int main(int argc, char **argv) {
  const av_status status = run(argc, argv);
  av_error_print();
  return (int)status;
}
