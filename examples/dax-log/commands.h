/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The subcommands: each has its own options and help, and returns an exit status. */
#ifndef DAX_LOG_COMMANDS_H
#define DAX_LOG_COMMANDS_H

#define DEFAULT_PORT 7471

int serve_main(int argc, char **argv);
int append_main(int argc, char **argv);
int verify_main(int argc, char **argv);
int cut_main(int argc, char **argv);

#endif
