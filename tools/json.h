/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What json-c would take more lines for. */
#ifndef TOOLS_JSON_H
#define TOOLS_JSON_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

#include "proc.h"

void json_put(json_object *to, const char *key, json_object *value); /* value is taken */
/* NULL or empty: null. What is no UTF-8 becomes U+FFFD. */
void json_put_text(json_object *to, const char *key, const char *text);
/* UINT64_MAX: null. */
void json_put_number(json_object *to, const char *key, uint64_t n);
void json_put_bool(json_object *to, const char *key, bool yes);

/* An object with "version", as all begin. */
json_object *json_begin(void);
/* Of a process that has a file: pid, comm, reads, writes, mapped. */
json_object *json_user(const struct user *user);
/* Prints it, in one line or not, and frees it. */
void json_end(json_object *root, bool one_line);

#endif
