// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <stdio.h>

#include "json.h"

#define VERSION 1

void json_put(json_object *to, const char *key, json_object *value)
{
	json_object_object_add(to, key, value);
}

void json_put_text(json_object *to, const char *key, const char *text)
{
	json_put(to, key, text && *text ? json_object_new_string(text) : NULL);
}

void json_put_number(json_object *to, const char *key, uint64_t n)
{
	json_put(to, key, n == UINT64_MAX ? NULL : json_object_new_uint64(n));
}

void json_put_bool(json_object *to, const char *key, bool yes)
{
	json_put(to, key, json_object_new_boolean(yes));
}

json_object *json_begin(void)
{
	json_object *root = json_object_new_object();

	json_put(root, "version", json_object_new_int(VERSION));
	return root;
}

json_object *json_user(const struct user *u)
{
	json_object *o = json_object_new_object();

	json_put_number(o, "pid", (uint64_t)u->pid);
	json_put_text(o, "comm", u->comm);
	json_put_bool(o, "reads", u->uses & USES_READ);
	json_put_bool(o, "writes", u->uses & USES_WRITE);
	json_put_bool(o, "mapped", u->uses & USES_MAPPED);
	return o;
}

void json_end(json_object *root, bool one_line)
{
	int flags = one_line ? JSON_C_TO_STRING_PLAIN : JSON_C_TO_STRING_PRETTY;

	puts(json_object_to_json_string_ext(root, flags | JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(root);
}
