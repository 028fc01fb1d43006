/* Reads tests/core/vectors/NAME.txt (format: make-vectors.py). The folder is argv[1] of a test, "tests/core/vectors" otherwise. */
#ifndef SPD_TEST_VECTORS_H
#define SPD_TEST_VECTORS_H

#include "check.h"

struct vector_item {
  char key[32];
  double number;
  double *values; /* NULL for a number */
  size_t count;
};

struct vector_case {
  char name[64];
  struct vector_item items[32];
  size_t n_items;
};

struct vectors {
  char *text;
  struct vector_case *cases;
  size_t n_cases;
};

static int vectors_blank(char c) { return c == ' ' || c == '\n'; }

/* Without strspn(): ASan's measures the whole rest of the text for each word. */
static char *vectors_word(char **at) {
  char *p = *at;
  while (vectors_blank(*p)) p++;
  char *end = p;
  while (*end && !vectors_blank(*end)) end++;
  *at = *end ? end + 1 : end;
  *end = 0;
  return p;
}

static void vectors_read(struct vectors *v, const char *folder, const char *name) {
  char path[1024];
  memset(v, 0, sizeof *v);
  snprintf(path, sizeof path, "%s/%s.txt", folder ? folder : "tests/core/vectors", name);
  FILE *file = fopen(path, "rb");
  if (!file) {
    printf("cannot open %s\n", path);
    exit(2);
  }
  fseek(file, 0, SEEK_END);
  long size = ftell(file);
  rewind(file);
  v->text = check_alloc((size_t)size + 1);
  if (size < 0 || fread(v->text, 1, (size_t)size, file) != (size_t)size) exit(2);
  fclose(file);
  size_t capacity = 0;
  char *at = v->text;
  for (char *word = vectors_word(&at); *word; word = vectors_word(&at)) {
    if (strcmp(word, "case") == 0) {
      if (v->n_cases == capacity) {
        capacity = capacity ? 2 * capacity : 8;
        v->cases = realloc(v->cases, capacity * sizeof *v->cases);
        if (!v->cases) exit(2);
      }
      struct vector_case *c = &v->cases[v->n_cases++];
      memset(c, 0, sizeof *c);
      snprintf(c->name, sizeof c->name, "%s/%s", name, vectors_word(&at));
      continue;
    }
    struct vector_case *c = &v->cases[v->n_cases - 1];
    struct vector_item *item = &c->items[c->n_items++];
    snprintf(item->key, sizeof item->key, "%s", vectors_word(&at));
    if (strcmp(word, "number") == 0)
      item->number = strtod(vectors_word(&at), NULL);
    else {
      item->count = (size_t)strtoul(vectors_word(&at), NULL, 10);
      item->values = check_alloc((item->count + 1) * sizeof *item->values);
      for (size_t i = 0; i < item->count; i++) item->values[i] = strtod(vectors_word(&at), NULL);
    }
  }
}

static void vectors_free(struct vectors *v) {
  for (size_t i = 0; i < v->n_cases; i++)
    for (size_t j = 0; j < v->cases[i].n_items; j++) free(v->cases[i].items[j].values);
  free(v->cases);
  free(v->text);
}

static const struct vector_item *vectors_find(const struct vector_case *c, const char *key) {
  for (size_t i = 0; i < c->n_items; i++)
    if (strcmp(c->items[i].key, key) == 0) return &c->items[i];
  return NULL;
}

CHECK_UNUSED static double vectors_number(const struct vector_case *c, const char *key) {
  const struct vector_item *item = vectors_find(c, key);
  if (!item) {
    printf("%s has no %s\n", c->name, key);
    exit(2);
  }
  return item->number;
}

CHECK_UNUSED static size_t vectors_size(const struct vector_case *c, const char *key) { return (size_t)vectors_number(c, key); }

/* NULL where the case has no such array. */
CHECK_UNUSED static const double *vectors_array(const struct vector_case *c, const char *key) {
  const struct vector_item *item = vectors_find(c, key);
  return item ? item->values : NULL;
}

#endif
