/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Layout leases in place of the kernel's, which hardly any machine has: what the
 * sys_* wrappers of fault.c and the fake device ask, and what plays the other side.
 */
#ifndef TEST_FAKE_LAYOUT_H
#define TEST_FAKE_LAYOUT_H

#include <stdbool.h>

struct file;

#define FAKE_SETLAYOUT (1u << 0)   /* F_SETLAYOUT */
#define FAKE_RFC (1u << 1)	   /* F_SETLEASE with F_LAYOUT */
#define FAKE_NOT_CAPABLE (1u << 2) /* but not for these files */

/* No such leases: as the machine is. */
void fake_layout_reset(void);
void fake_layout_emulate(unsigned int what);
bool fake_layout_emulates(unsigned int what);
/* In a child: a thread of the parent may have been in here. */
void fake_layout_after_fork(void);

/* The kernel's side of the calls. */
int fake_layout_set(int fd, int type, unsigned int flags);
int fake_layout_get(int fd, unsigned int *ret_flags);
/* F_SETLEASE and F_GETLEASE are meant for a layout lease of this description. */
bool fake_layout_has(int fd);
void fake_layout_closed(int fd);

/* Long-term pins. -EOPNOTSUPP: a mapping that is not leased. */
int fake_layout_pin(const void *addr);
void fake_layout_unpin(const void *addr);

/* From now on this mapping counts as one of FS-DAX, made from f->fd. */
void fake_layout_map(const struct file *f);

/* ------------------------------------------------------------------------- */
/* The other side */

/*
 * Somebody wants to change the file. 0: goes on at once. -ETXTBSY: refused at once.
 * -EAGAIN: waits, until fake_layout_waits() is false.
 */
int fake_layout_break(const struct file *f);
bool fake_layout_waits(const struct file *f);
/* Whoever waits has waited long enough. 0: goes on; -ETXTBSY: refused. */
int fake_layout_deadline(const struct file *f);
/* A change of the file goes on: taking a lease waits. */
void fake_layout_change(const struct file *f, bool goes_on);
/* Takers that wait for that. */
unsigned int fake_layout_takers(void);

/* Leases of the file, of all files if it is NULL. */
unsigned int fake_layout_leases(const struct file *f);
bool fake_layout_is_exclusive(const struct file *f);
unsigned int fake_layout_takes(void);

#endif
