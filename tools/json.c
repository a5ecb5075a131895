// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

#define VERSION 1

void json_put(json_object *to, const char *key, json_object *value)
{
	json_object_object_add(to, key, value);
}

/* Of the character at s, in UTF-8; 0: it is none. */
static size_t character_length(const unsigned char *s)
{
	size_t n = s[0] < 0x80			? 1 :
		   s[0] >= 0xc2 && s[0] <= 0xdf ? 2 :
		   s[0] >= 0xe0 && s[0] <= 0xef ? 3 :
		   s[0] >= 0xf0 && s[0] <= 0xf4 ? 4 :
						  0;

	for (size_t i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	}
	/* Longer than need be, half a pair, or beyond the last. */
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
	    (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return n;
}

/* JSON is UTF-8, and names of files are any bytes. NULL: out of memory. */
static json_object *new_text(const char *text)
{
	static const char replacement[] = "\357\277\275"; /* U+FFFD */
	char *valid = malloc(3 * strlen(text) + 1), *to = valid;
	json_object *value;

	if (!valid)
		return NULL;
	while (*text) {
		size_t n = character_length((const unsigned char *)text);

		to = mempcpy(to, n ? text : replacement, n ? n : sizeof(replacement) - 1);
		text += n ? n : 1;
	}
	value = json_object_new_string_len(valid, (int)(to - valid));
	free(valid);
	return value;
}

void json_put_text(json_object *to, const char *key, const char *text)
{
	json_put(to, key, text && *text ? new_text(text) : NULL);
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
