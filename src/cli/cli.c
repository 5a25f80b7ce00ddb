#include "cli/cli.h"

#include "base/memory.h"
#include "data/names.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The words that may stand first in place of an INI file. */
static const struct {
  const char *word;
  av_command command;
  const char *form; /* what is expected, for messages */
} commands[] = {{"check", AV_COMMAND_CHECK, "check RUN.ini [--ranks N] [section.key=value ...]"},
                {"inspect", AV_COMMAND_INSPECT, "inspect FILE.h5ad"},
                {"simulate", AV_COMMAND_SIMULATE, "simulate OUT.h5ad [key=value ...]"},
                {"help", AV_COMMAND_HELP, "help [KEY] [--markdown | --ini]"},
                {"version", AV_COMMAND_VERSION, "--version"},
                {NULL, AV_COMMAND_RUN, "RUN.ini [section.key=value ...]"}};
enum { N_COMMANDS = 5 }; /* that have a word; the one after them is a run */

static const char *form_of(av_command command) {
  int i = 0;
  while (i < N_COMMANDS && commands[i].command != command) {
    ++i;
  }
  return commands[i].form;
}

static av_status usage_error(const av_cli *cli, const char *word, const char *problem) {
  return av_fail(AV_USAGE, "%s: %s; expected: atlasvi %s", word, problem, form_of(cli->command));
}

/* key=value where a file is expected; a file whose name has a = is written with its folder. */
static bool is_setting(const char *word) { return word[strcspn(word, "=/")] == '='; }

/* A word without folder or ending that is nearly a command is a misspelt command. */
static av_status check_first_word(const char *word) {
  const char *words[N_COMMANDS];
  for (int i = 0; i < N_COMMANDS; ++i) {
    words[i] = commands[i].word;
  }
  if (is_setting(word)) {
    return av_fail(AV_USAGE, "%s: the INI file comes first; expected: atlasvi %s", word,
                   form_of(AV_COMMAND_RUN));
  }
  if (strpbrk(word, "./") != NULL) {
    return AV_OK;
  }
  const char *near = av_nearest(word, N_COMMANDS, words);
  if (near != NULL) {
    return av_fail(AV_USAGE, "%s: no such command; did you mean %s? (a file of this name: ./%s)",
                   word, near, word);
  }
  return AV_OK;
}

/* More than any machine has; the plan keeps a few numbers for each. */
enum { MOST_RANKS = 1 << 20 };

static av_status read_ranks(av_cli *cli, const char *text) {
  char *end = NULL;
  errno = 0;
  const long long ranks = text == NULL || text[0] == '\0' ? 0 : strtoll(text, &end, 10);
  if (end == NULL || *end != '\0' || errno != 0 || ranks < 1 || ranks > MOST_RANKS) {
    return av_fail(AV_USAGE, "--ranks %s: not a number of ranks; expected: atlasvi %s",
                   text == NULL ? "" : text, form_of(AV_COMMAND_CHECK));
  }
  cli->ranks = ranks;
  return AV_OK;
}

/* One "-..." argument; `next` is the one after it (NULL: none), *used whether it was consumed. */
static av_status read_option(av_cli *cli, const char *option, const char *next, bool *used) {
  static const char *const options[] = {"--help", "--version", "--ranks", "--markdown", "--ini"};
  if (cli->command == AV_COMMAND_CHECK && strcmp(option, "--ranks") == 0) {
    *used = next != NULL;
    return read_ranks(cli, next);
  }
  if (cli->command == AV_COMMAND_CHECK && strncmp(option, "--ranks=", 8) == 0) {
    return read_ranks(cli, option + 8);
  }
  if (cli->command == AV_COMMAND_HELP && strcmp(option, "--markdown") == 0) {
    cli->help_form = AV_HELP_MARKDOWN;
    return AV_OK;
  }
  if (cli->command == AV_COMMAND_HELP && strcmp(option, "--ini") == 0) {
    cli->help_form = AV_HELP_INI;
    return AV_OK;
  }
  const char *near = av_nearest(option, (int64_t)(sizeof options / sizeof *options), options);
  if (near != NULL && strcmp(near, option) != 0) {
    return av_fail(AV_USAGE, "%s: no such option; did you mean %s?", option, near);
  }
  return usage_error(cli, option, near != NULL ? "not an option here" : "no such option");
}

static av_status read_word(av_cli *cli, char *word) {
  const bool help = cli->command == AV_COMMAND_HELP;
  if (help && cli->key == NULL) {
    cli->key = word;
    return AV_OK;
  }
  if (help || cli->command == AV_COMMAND_VERSION) {
    return usage_error(cli, word, "one argument too many");
  }
  if (cli->path == NULL) {
    if (is_setting(word) && cli->command != AV_COMMAND_INSPECT) {
      return usage_error(cli, word, "the file comes first");
    }
    cli->path = word;
    return AV_OK;
  }
  if (cli->command == AV_COMMAND_INSPECT) {
    return usage_error(cli, word, "one argument too many");
  }
  if (strchr(word, '=') == NULL || word[0] == '=') {
    return usage_error(cli, word,
                       cli->command == AV_COMMAND_SIMULATE ? "not of the form key=value"
                                                           : "not of the form section.key=value");
  }
  cli->settings[cli->n_settings++] = word;
  return AV_OK;
}

av_status av_cli_parse(av_cli *cli, int argc, char *const *argv) {
  *cli = (av_cli){.command = AV_COMMAND_NONE};
  if (argc < 2) {
    return AV_OK;
  }
  for (int i = 1; i < argc; ++i) {
    if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
      cli->command = AV_COMMAND_USAGE;
      return AV_OK;
    }
  }
  if (strcmp(argv[1], "--version") == 0) {
    cli->command = AV_COMMAND_VERSION;
    return argc == 2 ? AV_OK : usage_error(cli, argv[2], "one argument too many");
  }
  cli->settings = av_calloc((size_t)argc, sizeof *cli->settings);
  AV_TRY_ALLOC(cli->settings);
  cli->command = AV_COMMAND_RUN;
  int first = 1;
  for (int i = 0; i < N_COMMANDS; ++i) {
    if (strcmp(argv[1], commands[i].word) == 0) {
      cli->command = commands[i].command;
      first = 2;
    }
  }
  if (cli->command == AV_COMMAND_RUN && argv[1][0] != '-') {
    AV_TRY(check_first_word(argv[1]));
  }
  for (int i = first; i < argc; ++i) {
    bool used = false;
    if (argv[i][0] == '-') {
      AV_TRY(read_option(cli, argv[i], i + 1 < argc ? argv[i + 1] : NULL, &used));
    } else {
      AV_TRY(read_word(cli, argv[i]));
    }
    i += used;
  }
  const bool needs_path = cli->command != AV_COMMAND_HELP && cli->command != AV_COMMAND_VERSION;
  if (needs_path && cli->path == NULL) {
    return usage_error(cli, argv[1], "no file");
  }
  return AV_OK;
}

void av_cli_free(av_cli *cli) {
  free(cli->settings);
  *cli = (av_cli){.command = AV_COMMAND_NONE};
}

void av_cli_usage(FILE *out) {
  fputs(
      "atlasvi fits scVI and LDVAE models to the counts of an .h5ad file.\n"
      "\n"
      "  mpirun -n RANKS atlasvi RUN.ini [section.key=value ...]   fit, and write the results\n"
      "  atlasvi check RUN.ini [--ranks N] [section.key=value ...] settings, input and plan\n"
      "  atlasvi inspect FILE.h5ad                                 what is in a file\n"
      "  atlasvi simulate OUT.h5ad [key=value ...]                 counts with known factors\n"
      "  atlasvi help [KEY] [--markdown | --ini]                   every key, or one\n"
      "  atlasvi --version                                         this build and its libraries\n",
      out);
}
