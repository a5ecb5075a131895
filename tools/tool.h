/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What the subcommands have in common. */
#ifndef TOOLS_TOOL_H
#define TOOLS_TOOL_H

/* Exit statuses, besides 0. */
#define TOOL_NO 1    /* it works, and the answer is no: see the subcommand */
#define TOOL_USAGE 2 /* wrong usage */
#define TOOL_FAILED 3

/* argv[0] is the subcommand's name. They return the exit status. */
int run_main(int argc, char **argv);
int doctor_main(int argc, char **argv);
int who_main(int argc, char **argv);
int watch_main(int argc, char **argv);

__attribute__((format(printf, 1, 2))) void tool_say(const char *fmt, ...);

#endif
