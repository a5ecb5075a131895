/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What /proc says of files and processes. All of it may be out of date when it is read, and
 * of other users' processes only the privileged see something.
 */
#ifndef TOOLS_PROC_H
#define TOOLS_PROC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct file_id {
	dev_t dev;
	ino_t ino;
};

/* How a process has the file. */
#define USES_READ (1u << 0)   /* open for reading */
#define USES_WRITE (1u << 1)  /* open for writing */
#define USES_MAPPED (1u << 2) /* mapped */
#define USES_SHARED (1u << 3) /* mapped such that it changes the file */

struct user {
	pid_t pid;
	char comm[32];
	unsigned int uses;
};

struct users {
	struct user *list;
	size_t n;
	unsigned int hidden; /* processes that could not be looked into */
};

/* Processes that have it open or mapped. -ENOMEM. */
int proc_users(const struct file_id *file, pid_t except, struct users *ret_users);
void proc_users_free(struct users *users);

/*
 * The name of a process, "?" if there is none. A process gives itself any name: what is no
 * printable ASCII, terminals' escape sequences for one, is "?" as well.
 */
void proc_comm(pid_t pid, char *ret_comm, size_t size);

enum lock_kind {
	LOCK_LEASE,
	LOCK_DELEG,
	LOCK_LAYOUT,
	LOCK_WAITER, /* blocked by one of the lines before */
};

struct lock {
	enum lock_kind kind;
	char state[16]; /* "ACTIVE", "BREAKING", ... as the kernel calls it */
	char type[16];	/* "READ", "WRITE", ... */
	pid_t pid;	/* 0: nobody here, it is of another PID namespace */
};

/*
 * A line of /proc/locks, which begins with a number. False: it is about something else, or
 * makes no sense.
 */
bool proc_parse_lock(const char *line, struct lock *ret_lock, struct file_id *ret_file);

/* The leases of the file. The list is the caller's. */
int proc_locks(const struct file_id *file, struct lock **ret_locks, size_t *ret_n);

/*
 * A line of fdinfo about a fanotify mark. False: it is about something else, or the mark is
 * none that lets others wait before they change the file.
 */
bool proc_parse_mark(const char *line, struct file_id *ret_file);

/*
 * Processes that have the file under guard (kind guard): in themselves, or daxleased(8) for
 * others. Their uses is 0.
 */
int proc_guards(const struct file_id *file, struct users *ret_guards);

/* A task that is in a system call which would change the file, or open it. */
struct waiter {
	pid_t pid, tid;
	char comm[32];
	char call[24];	/* "truncate", "openat", ... */
	char where[48]; /* the kernel's function that it sleeps in; empty: unknown */
};

struct waiters {
	struct waiter *list;
	size_t n;
	unsigned int hidden;
};

/*
 * Tasks that sleep in such a call on this file, or on one that cannot be told (which is
 * so for paths of others), in a function of the kernel that waits for leases or guards.
 */
int proc_waiters(const struct file_id *file, struct waiters *ret_waiters);
void proc_waiters_free(struct waiters *waiters);

/* An integer from a file, such as /proc/sys/fs/leases-enable; -1: it cannot be read. */
long proc_number(const char *path);

/* This process has the capability with this number in effect. */
bool proc_capable(unsigned int capability);

/* Filesystem and options of the mount that has the file open at fd. */
struct mount {
	char fs[32];
	char source[128];
	char dir[256];
	char options[512]; /* of the mount and of the filesystem */
};
/* A line of mountinfo. False: it is about another mount, or makes no sense. */
bool proc_parse_mount(const char *line, long id, struct mount *ret_mount);
int proc_mount(int fd, const char *path, struct mount *ret_mount);

/* Whether the comma-separated list has this word. */
bool proc_has_option(const char *options, const char *word);

#endif
