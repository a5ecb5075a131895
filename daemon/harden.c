// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * The work needs two capabilities, measured on Linux 7.3 with files and processes of other
 * users:
 * CAP_SYS_PTRACE: /proc/TID/syscall, and what a descriptor in /proc/PID/fd refers to.
 * CAP_DAC_READ_SEARCH: fanotify_mark() asks whether we may read the file; and /proc/PID/fd
 * is a folder of its owner.
 * fanotify_init() needs CAP_SYS_ADMIN; a mark on an inode of such a group does not.
 */
#include <cap-ng.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sched.h>
#include <seccomp.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "harden.h"
#include "journal.h"

static int complain(int err, const char *what)
{
	journal_say(GUARD_LOG_ERR, "%s: %s", what, strerror(-err));
	return err;
}

/* ------------------------------------------------------------------------- */
/* Capabilities */

int harden_check(void)
{
	static const struct {
		unsigned int cap;
		const char *what;
	} needed[] = {
		{ CAP_SYS_ADMIN, "CAP_SYS_ADMIN, to be asked about calls of others" },
		{ CAP_SYS_PTRACE, "CAP_SYS_PTRACE, to see which calls these are" },
		{ CAP_DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH, to watch files of others" },
	};

	for (unsigned int i = 0; i < sizeof(needed) / sizeof(needed[0]); i++) {
		if (capng_have_capability(CAPNG_EFFECTIVE, needed[i].cap))
			continue;
		journal_say(GUARD_LOG_ERR,
			    "this needs %s: start it as root, or by systemd with "
			    "daxleased.socket",
			    needed[i].what);
		return -EPERM;
	}
	return 0;
}

static int drop_capabilities(void)
{
	/* Without CAP_SETPCAP the bounding set stays; with no new privileges it gives nothing. */
	const bool bounds = capng_have_capability(CAPNG_EFFECTIVE, CAP_SETPCAP);

	capng_clear(CAPNG_SELECT_ALL);
	capng_updatev(CAPNG_ADD, (capng_type_t)(CAPNG_EFFECTIVE | CAPNG_PERMITTED), CAP_SYS_PTRACE,
		      CAP_DAC_READ_SEARCH, -1);
	if ((bounds && capng_apply(CAPNG_SELECT_BOUNDS)) || capng_apply(CAPNG_SELECT_AMBIENT) ||
	    capng_apply(CAPNG_SELECT_CAPS))
		return complain(errno ? -errno : -EPERM, "capabilities cannot be dropped");
	return 0;
}

/* ------------------------------------------------------------------------- */
/* System calls */

static int allow_all(scmp_filter_ctx filter, const int *calls, size_t n)
{
	int err = 0;

	for (size_t i = 0; i < n && !err; i++)
		err = seccomp_rule_add(filter, SCMP_ACT_ALLOW, calls[i], 0);
	return err;
}

static int allow_plain(scmp_filter_ctx filter)
{
	static const int calls[] = {
		/* sockets and events */
		SCMP_SYS(accept4),
		SCMP_SYS(getsockopt),
		SCMP_SYS(recvmsg),
		SCMP_SYS(sendmsg),
		SCMP_SYS(shutdown),
		SCMP_SYS(epoll_wait),
		SCMP_SYS(epoll_pwait),
		SCMP_SYS(poll),
		SCMP_SYS(ppoll),
		SCMP_SYS(fanotify_mark),
		SCMP_SYS(timerfd_settime),
		/* what is open */
		SCMP_SYS(close),
		SCMP_SYS(fstat),
		SCMP_SYS(fstatfs),
		SCMP_SYS(getdents64),
		SCMP_SYS(lseek),
		SCMP_SYS(newfstatat),
		SCMP_SYS(pread64),
		SCMP_SYS(read),
		SCMP_SYS(statx),
		SCMP_SYS(write),
		SCMP_SYS(writev),
		/* what glibc needs, for threads and memory above all */
		SCMP_SYS(alarm),
		SCMP_SYS(setitimer),
		SCMP_SYS(brk),
		SCMP_SYS(clock_gettime),
		SCMP_SYS(clock_nanosleep),
		SCMP_SYS(exit),
		SCMP_SYS(exit_group),
		SCMP_SYS(futex),
		SCMP_SYS(getpid),
		SCMP_SYS(getrandom),
		SCMP_SYS(gettid),
		SCMP_SYS(madvise),
		SCMP_SYS(munmap),
		SCMP_SYS(restart_syscall),
		SCMP_SYS(rseq),
		SCMP_SYS(rt_sigaction),
		SCMP_SYS(rt_sigprocmask),
		SCMP_SYS(rt_sigreturn),
		SCMP_SYS(sched_getaffinity),
		SCMP_SYS(sched_yield),
		SCMP_SYS(set_robust_list),
	};

	return allow_all(filter, calls, sizeof(calls) / sizeof(calls[0]));
}

static int allow_one(scmp_filter_ctx filter, int call, struct scmp_arg_cmp arg)
{
	return seccomp_rule_add(filter, SCMP_ACT_ALLOW, call, 1, arg);
}

/* Opens for reading, threads but no processes, memory that is not executed. */
static int allow_some(scmp_filter_ctx filter)
{
	const uint64_t writes = O_ACCMODE | O_CREAT | O_TRUNC | (O_TMPFILE & ~O_DIRECTORY);
	const uint64_t thread = CLONE_VM | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD;
	int err;

	err = allow_one(filter, SCMP_SYS(openat), SCMP_A2(SCMP_CMP_MASKED_EQ, writes, O_RDONLY));
	if (!err)
		err = allow_one(filter, SCMP_SYS(clone),
				SCMP_A0(SCMP_CMP_MASKED_EQ, thread, thread));
	/* Its flags are in memory. glibc uses clone() then. */
	if (!err)
		err = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	if (!err)
		err = allow_one(filter, SCMP_SYS(mmap), SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	if (!err)
		err = allow_one(filter, SCMP_SYS(mprotect),
				SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	if (!err)
		err = allow_one(filter, SCMP_SYS(ioctl), SCMP_A1(SCMP_CMP_EQ, FS_IOC_FIEMAP));
	if (!err)
		err = allow_one(filter, SCMP_SYS(fcntl), SCMP_A1(SCMP_CMP_EQ, F_GETFL));
	if (!err) /* abort(3) */
		err = allow_one(filter, SCMP_SYS(tgkill),
				SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()));
	return err;
}

static int allow_unlink(scmp_filter_ctx filter)
{
	static const int calls[] = {
		SCMP_SYS(unlink),
		SCMP_SYS(rmdir),
		SCMP_SYS(unlinkat),
	};

	return allow_all(filter, calls, sizeof(calls) / sizeof(calls[0]));
}

/*
 * What is not allowed fails. It does not kill: a new glibc that asks for more can mostly
 * do without, and a guard that dies guards nobody.
 */
static int filter_calls(bool unlinks)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	int err = filter ? 0 : -ENOMEM;

	if (!err)
		err = allow_plain(filter);
	if (!err)
		err = allow_some(filter);
	if (!err && unlinks)
		err = allow_unlink(filter);
	if (!err)
		err = seccomp_load(filter);
	seccomp_release(filter);
	return err ? complain(err, "system calls cannot be filtered") : 0;
}

/* ------------------------------------------------------------------------- */

int harden(bool unlinks)
{
	int err;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return complain(-errno, "no new privileges");
	err = drop_capabilities();
	if (err)
		return err;
	/* After the capabilities: nobody of the same user may look inside, or trace. */
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return complain(-errno, "not dumpable");
	return filter_calls(unlinks);
}
