// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench.h"

static bool json, strict;
static const char *part = "";
static const char *left = "ours", *right = "bare";
static unsigned int items, missed;

/* ------------------------------------------------------------------------- */
/* Samples */

void samples_add(struct samples *s, double v)
{
	if (s->n == s->max) {
		s->max = s->max ? s->max * 2 : 256;
		s->v = realloc(s->v, s->max * sizeof(*s->v));
		if (!s->v)
			die(0, "out of memory");
	}
	s->v[s->n++] = v;
}

static int compare(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double samples_quantile(const struct samples *s, double q)
{
	if (!s->n)
		return 0;
	qsort(s->v, s->n, sizeof(*s->v), compare);
	return s->v[(size_t)(q * (double)(s->n - 1) + 0.5)];
}

void samples_free(struct samples *s)
{
	free(s->v);
	*s = (struct samples){ 0 };
}

/* ------------------------------------------------------------------------- */
/* Text */

/* As much of a string as JSON allows inside quotes. */
static void print_quoted(const char *s)
{
	putchar('"');
	for (; *s; s++) {
		if (*s == '"' || *s == '\\')
			putchar('\\');
		putchar((unsigned char)*s < ' ' ? ' ' : *s);
	}
	putchar('"');
}

static void json_begin(const char *type)
{
	printf("%s\n  {\"part\": ", items++ ? "," : "");
	print_quoted(part);
	printf(", \"type\": \"%s\"", type);
}

static void json_string(const char *key, const char *value)
{
	printf(", \"%s\": ", key);
	print_quoted(value);
}

static void json_number(const char *key, double value)
{
	printf(", \"%s\": %.10g", key, value);
}

static void json_end(void)
{
	printf("}");
}

void report_begin(bool want_json, bool want_strict)
{
	json = want_json;
	strict = want_strict;
	if (json)
		printf("[");
}

int report_end(void)
{
	if (json)
		printf("\n]\n");
	else if (missed)
		printf("\n%u target%s missed\n", missed, missed == 1 ? "" : "s");
	return strict && missed ? EXIT_FAILURE : EXIT_SUCCESS;
}

void report_part(const char *name, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	part = name;
	report_columns("ours", "bare");
	if (json)
		return;
	printf("\n(%s) %s\n", name, text);
	fflush(stdout);
}

void report_columns(const char *new_left, const char *new_right)
{
	left = new_left;
	right = new_right;
}

void report_note(const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (!json) {
		printf("    %s\n", text);
		fflush(stdout);
		return;
	}
	json_begin("note");
	json_string("text", text);
	json_end();
}

/* ------------------------------------------------------------------------- */
/* Figures */

static void json_samples(const char *who, const struct samples *s)
{
	char key[32];

	if (!s)
		return;
	json_number(who, samples_quantile(s, 0.5));
	snprintf(key, sizeof(key), "%s_p95", who);
	json_number(key, samples_quantile(s, 0.95));
	snprintf(key, sizeof(key), "%s_n", who);
	json_number(key, (double)s->n);
}

static void text_samples(const struct samples *s)
{
	if (s)
		printf(" %9.2f %9.2f", samples_quantile(s, 0.5), samples_quantile(s, 0.95));
	else
		printf(" %9s %9s", "-", "-");
}

static void text_header(void)
{
	static const char *last;

	if (last == part)
		return;
	last = part;
	printf("    %-44s %4s %9s %9s %9s %9s %7s\n", "", "", left, "95 %", right, "95 %", "ratio");
}

void report_pair(const char *name, const char *unit, const struct samples *ours,
		 const struct samples *bare, double target)
{
	double ratio = ours && bare ? samples_quantile(ours, 0.5) / samples_quantile(bare, 0.5) : 0;
	bool miss = target > 0 && ratio > target;

	missed += miss;
	if (json) {
		json_begin("pair");
		json_string("name", name);
		json_string("unit", unit);
		json_samples(left, ours);
		json_samples(right, bare);
		if (ratio > 0)
			json_number("ratio", ratio);
		if (target > 0) {
			json_number("target", target);
			printf(", \"missed\": %s", miss ? "true" : "false");
		}
		json_end();
		return;
	}
	text_header();
	printf("    %-44s %4s", name, unit);
	text_samples(ours);
	text_samples(bare);
	if (ratio > 0)
		printf(" %7.3f", ratio);
	if (target > 0 && ratio > 0)
		printf("  <= %.2f %s", target, miss ? "MISSED" : "ok");
	printf("\n");
	fflush(stdout);
}

void report_value(const char *name, const char *unit, double value, double limit)
{
	bool miss = limit >= 0 && value > limit;

	missed += miss;
	if (json) {
		json_begin("value");
		json_string("name", name);
		json_string("unit", unit);
		json_number("value", value);
		if (limit >= 0) {
			json_number("limit", limit);
			printf(", \"missed\": %s", miss ? "true" : "false");
		}
		json_end();
		return;
	}
	printf("    %-56s %10.6g %s", name, value, unit);
	if (limit >= 0)
		printf("  <= %g %s", limit, miss ? "MISSED" : "ok");
	printf("\n");
	fflush(stdout);
}
