// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

#include "say.h"
#include "settings.h"

static const char *const policies[] = {
	[POLICY_FENCE] = "fence",
	[POLICY_EXCLUSIVE] = "exclusive",
	[POLICY_ABORT] = "abort",
};

static const char *const levels[] = {
	[DAXLEASE_LOG_ERR] = "error",
	[DAXLEASE_LOG_WARNING] = "warning",
	[DAXLEASE_LOG_INFO] = "info",
	[DAXLEASE_LOG_DEBUG] = "debug",
};

const char *settings_policy_str(enum policy policy)
{
	return policies[policy];
}

/* Set and not empty; of privileged programs nothing is. */
static const char *get(const char *name)
{
	const char *value = secure_getenv(name);

	return value && *value ? value : NULL;
}

static int find(const char *const *names, int n, const char *value)
{
	int i;

	for (i = 0; i < n && strcmp(names[i], value); i++)
		;
	return i < n ? i : -1;
}

static void read_policy(struct settings *s)
{
	const char *value = get("DAXLEASE_POLICY");
	int found = value ? find(policies, 3, value) : POLICY_FENCE;

	if (found < 0)
		say(DAXLEASE_LOG_ERR,
		    "DAXLEASE_POLICY=%s: neither fence, exclusive nor abort: taking fence", value);
	s->policy = found < 0 ? POLICY_FENCE : (enum policy)found;
}

static void read_kind(struct settings *s)
{
	const char *value = get("DAXLEASE_KIND");

	if (!value)
		return;
	if (daxlease_kind_from_str(value, &s->kind) || s->kind == DAXLEASE_KIND_NONE) {
		say(DAXLEASE_LOG_ERR,
		    "DAXLEASE_KIND=%s: neither auto, layout, layout-rfc, guard, deleg nor lease: "
		    "taking auto",
		    value);
		s->kind = DAXLEASE_KIND_AUTO;
	}
}

static void read_budget(struct settings *s)
{
	const char *value = get("DAXLEASE_BUDGET_MS");
	unsigned long ms;
	char *end;

	if (!value)
		return;
	errno = 0;
	ms = strtoul(value, &end, 10);
	if (errno || *end || value[0] < '0' || value[0] > '9' || ms > BUDGET_MAX_MS) {
		say(DAXLEASE_LOG_ERR,
		    "DAXLEASE_BUDGET_MS=%s: not a number of milliseconds up to %lu: taking 10000",
		    value, BUDGET_MAX_MS);
		return;
	}
	s->budget_ms = (uint32_t)ms;
}

/* First of all, for the others are complained of there. */
static void read_log(void)
{
	const char *value = get("DAXLEASE_LOG"), *path = get("DAXLEASE_LOG_FILE");
	int level = value ? find(levels, 4, value) : DAXLEASE_LOG_WARNING;
	int err = say_open(path, level < 0 ? DAXLEASE_LOG_WARNING : (enum daxlease_log_level)level);

	if (err)
		say(DAXLEASE_LOG_ERR, "DAXLEASE_LOG_FILE=%s: %s: taking stderr", path,
		    strerror(-err));
	if (level < 0)
		say(DAXLEASE_LOG_ERR,
		    "DAXLEASE_LOG=%s: neither error, warning, info nor debug: taking warning",
		    value);
}

static bool is_listed(const char *list, const char *name)
{
	size_t n = strlen(name);

	while (list) {
		if (!strncmp(list, name, n) && (list[n] == ',' || !list[n]))
			return true;
		list = strchr(list, ',');
		list += list != NULL;
	}
	return false;
}

static void read_off(struct settings *s)
{
	const char *disable = get("DAXLEASE_DISABLE");

	s->off = getauxval(AT_SECURE) || (disable && strcmp(disable, "0")) ||
		 is_listed(get("DAXLEASE_SKIP"), program_invocation_short_name);
	if (disable && strcmp(disable, "0") && strcmp(disable, "1"))
		say(DAXLEASE_LOG_ERR, "DAXLEASE_DISABLE=%s: neither 0 nor 1: taking 1", disable);
}

/*
 * Needed at the first registration only. Until then the program may have written over its
 * environment, to change what ps(1) shows. Empty is not the same as not set.
 */
static void read_guard_socket(struct settings *s)
{
	const char *value = secure_getenv("DAXLEASE_GUARD_SOCKET");
	char *copy = value ? strdup(value) : NULL;

	s->guard_socket = copy ? copy : value;
}

void settings_read(struct settings *ret_settings)
{
	struct settings s = { 0 };

	read_log();
	read_off(&s);
	if (!s.off) {
		read_guard_socket(&s);
		read_policy(&s);
		read_kind(&s);
		read_budget(&s);
	}
	*ret_settings = s;
}
