/* The table of keys for people: `atlasvi help`, Markdown, and an INI file to start from. */
#include "config/config_table.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_WIDTH = 40, PAGE_WIDTH = 100 };

/* Prints words from column `left` on, as many a line as the page holds; the cursor stands there. */
static void print_wrapped(FILE *out, const char *text, size_t left) {
  size_t column = left;
  while (*text != '\0') {
    const size_t length = strcspn(text, " ");
    if (column > left && column + 1 + length > PAGE_WIDTH) {
      fprintf(out, "\n%*s", (int)left, "");
      column = left;
    }
    if (column > left) {
      fputc(' ', out);
      ++column;
    }
    fwrite(text, 1, length, out);
    column += length;
    text += length + strspn(text + length, " ");
  }
  fputc('\n', out);
}

/* "name = default" in one column, sentence and type in the other. */
static void print_row(FILE *out, const av_config_key *key) {
  char *text = NULL;
  size_t length = 0;
  FILE *memory = open_memstream(&text, &length);
  if (memory == NULL) {
    return;
  }
  fputs(key->sentence, memory);
  if (key->type != AV_TYPE_TEXT && key->type != AV_TYPE_BOOL) { /* those show in the sentence */
    fputs(" (", memory);
    av_config_print_type(memory, key);
    fputc(')', memory);
  }
  if (av_config_alias(key) != NULL) {
    fprintf(memory, "; also accepted as %s", av_config_alias(key));
  }
  if (fclose(memory) == 0) {
    const int width = fprintf(out, "  %s%s%s", key->name,
                              key->default_value[0] == '\0' ? " =" : " = ", key->default_value);
    fprintf(out, "%*s", width < KEY_WIDTH ? KEY_WIDTH - width : 1, "");
    print_wrapped(out, text, KEY_WIDTH);
  }
  free(text);
}

static void print_section(FILE *out, const av_config_section *section) {
  fprintf(out, "[%s]  %s\n", section->name, section->sentence);
  for (int i = 0; i < AV_N_KEYS; ++i) {
    if (strcmp(av_config_keys[i].section, section->name) == 0) {
      print_row(out, &av_config_keys[i]);
    }
  }
}

static void print_one(FILE *out, const av_config_key *key) {
  fprintf(out, "[%s] %s\n  ", key->section, key->name);
  print_wrapped(out, key->sentence, 2);
  fputs("  value    ", out);
  av_config_print_type(out, key);
  fprintf(out, "\n  default  %s\n", key->default_value[0] == '\0' ? "none" : key->default_value);
  if (av_config_alias(key) != NULL) {
    fprintf(out, "  also     %s\n", av_config_alias(key));
  }
}

static av_status unknown_key(const char *word) {
  char room[AV_SHOWN_ROOM];
  const char *dot = strchr(word, '.');
  const char *found_in = NULL;
  const char *near = av_config_nearest_key(NULL, dot == NULL ? word : dot + 1, &found_in);
  const char *section = near == NULL ? av_config_nearest_section(word) : NULL;
  av_config_shown(room, word);
  if (near != NULL) {
    return av_fail(AV_USAGE, "help %s: no such key; did you mean %s.%s?", room, found_in, near);
  }
  if (section != NULL) {
    return av_fail(AV_USAGE, "help %s: no such key; did you mean %s?", room, section);
  }
  return av_fail(AV_USAGE, "help %s: no such key; \"atlasvi help\" lists them all", room);
}

av_status av_config_help(FILE *out, const char *key) {
  bool found = false;
  for (int i = 0; i < AV_N_SECTIONS; ++i) {
    const av_config_section *section = &av_config_sections[i];
    if (key == NULL || strcmp(key, section->name) == 0) {
      fputs(found ? "\n" : "", out);
      print_section(out, section);
      found = true;
    }
  }
  for (int i = 0; key != NULL && i < AV_N_SECTIONS; ++i) {
    const char *section = av_config_sections[i].name;
    const size_t length = strlen(section);
    const bool dotted = strncmp(key, section, length) == 0 && key[length] == '.';
    const av_config_key *one = av_config_find(section, dotted ? key + length + 1 : key);
    if (one != NULL) {
      fputs(found ? "\n" : "", out);
      print_one(out, one);
      found = true;
    }
  }
  return found ? AV_OK : unknown_key(key);
}

void av_config_help_markdown(FILE *out) {
  const char *section = "";
  for (int i = 0; i < AV_N_KEYS; ++i) {
    const av_config_key *key = &av_config_keys[i];
    if (strcmp(section, key->section) != 0) {
      section = key->section;
      for (int j = 0; j < AV_N_SECTIONS; ++j) {
        if (strcmp(section, av_config_sections[j].name) == 0) {
          fprintf(out, "%s### [%s]: %s\n\n", i == 0 ? "" : "\n", section,
                  av_config_sections[j].sentence);
        }
      }
      fputs("| key | default | value | meaning |\n|---|---|---|---|\n", out);
    }
    fprintf(out, "| `%s`", key->name);
    if (av_config_alias(key) != NULL) {
      fprintf(out, " (or `%s`)", av_config_alias(key));
    }
    if (key->default_value[0] != '\0') {
      fprintf(out, " | `%s` | ", key->default_value);
    } else {
      fputs(" | | ", out);
    }
    av_config_print_type(out, key);
    fprintf(out, " | %s |\n", key->sentence);
  }
}

void av_config_help_ini(FILE *out) {
  fputs(
      "; Every key of atlasvi with its default. Take the ; away from a line to set it.\n"
      "; This file is the output of \"atlasvi help --ini\".\n",
      out);
  for (int i = 0; i < AV_N_SECTIONS; ++i) {
    const av_config_section *section = &av_config_sections[i];
    fprintf(out, "\n; %s\n[%s]\n", section->sentence, section->name);
    for (int j = 0; j < AV_N_KEYS; ++j) {
      const av_config_key *key = &av_config_keys[j];
      if (strcmp(key->section, section->name) == 0) {
        fprintf(out, "\n# %s\n# ", key->sentence);
        av_config_print_type(out, key);
        fprintf(out, "\n;%s =%s%s\n", key->name, key->default_value[0] == '\0' ? "" : " ",
                key->default_value);
      }
    }
  }
}
