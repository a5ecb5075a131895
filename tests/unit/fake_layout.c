// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fake_layout.h"
#include "support.h"
#include "sys.h"

#define MAX_LEASES 16
#define MAX_MAPS 8

struct layout {
	bool used;
	int fd; /* by which it was taken */
	ino_t ino;
	unsigned int flags;
	bool late; /* the deadline of its break is over */
};

struct mapping {
	const char *addr;
	size_t size;
	int fd;
	ino_t ino;
	unsigned int pins;
};

static struct {
	unsigned int emulate;
	struct layout leases[MAX_LEASES];
	struct mapping maps[MAX_MAPS];
	unsigned int nmaps, takes, takers;
	ino_t changing;
} fake;

/* Innermost of all locks. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

int __real_sys_same_description(int fd, int other);

static bool is_same(int fd, int other)
{
	return fd == other || __real_sys_same_description(fd, other) == 1;
}

static ino_t ino_of(int fd)
{
	struct stat st;

	return fstat(fd, &st) ? 0 : st.st_ino;
}

void fake_layout_reset(void)
{
	pthread_mutex_lock(&lock);
	memset(&fake, 0, sizeof(fake));
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

void fake_layout_emulate(unsigned int what)
{
	pthread_mutex_lock(&lock);
	fake.emulate = what;
	pthread_mutex_unlock(&lock);
}

bool fake_layout_emulates(unsigned int what)
{
	bool yes;

	pthread_mutex_lock(&lock);
	yes = fake.emulate & what;
	pthread_mutex_unlock(&lock);
	return yes;
}

void fake_layout_after_fork(void)
{
	pthread_mutex_init(&lock, NULL);
}

static struct layout *find(int fd)
{
	ino_t ino = ino_of(fd);

	for (struct layout *l = fake.leases; l < fake.leases + MAX_LEASES; l++) {
		if (l->used && l->ino == ino && is_same(l->fd, fd))
			return l;
	}
	return NULL;
}

static unsigned int pins_of(const struct layout *l)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < fake.nmaps; i++) {
		if (fake.maps[i].ino == l->ino && is_same(fake.maps[i].fd, l->fd))
			n += fake.maps[i].pins;
	}
	return n;
}

/* The kernel resets owner and signal with it. */
static void drop(struct layout *l)
{
	struct f_owner_ex none = { .type = F_OWNER_PID };

	fcntl(l->fd, F_SETSIG, 0);
	fcntl(l->fd, F_SETOWN_EX, &none);
	*l = (struct layout){ 0 };
	pthread_cond_broadcast(&changed);
}

static bool is_breaking(ino_t ino)
{
	for (unsigned int i = 0; i < MAX_LEASES; i++) {
		const struct layout *l = &fake.leases[i];

		if (l->used && l->ino == ino && l->flags & SYS_LAYOUT_BREAKING)
			return true;
	}
	return false;
}

static int take(int fd, unsigned int flags)
{
	struct layout *l = find(fd);
	ino_t ino = ino_of(fd);

	if (fake.emulate & FAKE_NOT_CAPABLE)
		return -EOPNOTSUPP;
	if (flags & SYS_LAYOUT_UNBREAKABLE && (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY)
		return -EBADF;
	fake.takers++;
	while (fake.changing && fake.changing == ino)
		pthread_cond_wait(&changed, &lock);
	fake.takers--;
	if (is_breaking(ino))
		return -EAGAIN;
	if (l)
		return l->flags == flags ? 0 : -EBUSY;
	for (l = fake.leases; l < fake.leases + MAX_LEASES; l++) {
		if (l->used)
			continue;
		*l = (struct layout){ .used = true, .fd = fd, .ino = ino, .flags = flags };
		fake.takes++;
		return 0;
	}
	return -ENOLCK;
}

static int give_back(int fd)
{
	struct layout *l = find(fd);

	if (!l)
		return -EAGAIN;
	if (pins_of(l))
		return -EBUSY;
	drop(l);
	return 0;
}

int fake_layout_set(int fd, int type, unsigned int flags)
{
	int err;

	pthread_mutex_lock(&lock);
	err = type == F_UNLCK ? give_back(fd) : take(fd, flags);
	pthread_mutex_unlock(&lock);
	return err;
}

int fake_layout_get(int fd, unsigned int *ret_flags)
{
	const struct layout *l;
	int type;

	pthread_mutex_lock(&lock);
	l = find(fd);
	*ret_flags = l ? l->flags : 0;
	type = l ? F_RDLCK : F_UNLCK;
	pthread_mutex_unlock(&lock);
	return type;
}

bool fake_layout_has(int fd)
{
	unsigned int flags;

	return fake_layout_get(fd, &flags) == F_RDLCK;
}

/* It lives on with the description, but no test looks after it any more. */
void fake_layout_closed(int fd)
{
	pthread_mutex_lock(&lock);
	for (struct layout *l = fake.leases; l < fake.leases + MAX_LEASES; l++) {
		if (l->used && l->fd == fd)
			*l = (struct layout){ 0 };
	}
	pthread_mutex_unlock(&lock);
}

/* ------------------------------------------------------------------------- */
/* Pins */

static struct mapping *find_map(const char *addr)
{
	for (unsigned int i = 0; i < fake.nmaps; i++) {
		if (addr >= fake.maps[i].addr && addr < fake.maps[i].addr + fake.maps[i].size)
			return &fake.maps[i];
	}
	return NULL;
}

int fake_layout_pin(const void *addr)
{
	const struct layout *l;
	struct mapping *m;
	int err = 0;

	pthread_mutex_lock(&lock);
	m = find_map(addr);
	if (m) {
		l = find(m->fd);
		if (!l || l->flags & SYS_LAYOUT_BREAKING)
			err = -EOPNOTSUPP;
		else
			m->pins++;
	}
	pthread_mutex_unlock(&lock);
	return err;
}

void fake_layout_unpin(const void *addr)
{
	struct mapping *m;

	pthread_mutex_lock(&lock);
	m = find_map(addr);
	if (m)
		m->pins--;
	pthread_mutex_unlock(&lock);
}

void fake_layout_map(const struct file *f)
{
	pthread_mutex_lock(&lock);
	assert_true(fake.nmaps < MAX_MAPS);
	fake.maps[fake.nmaps++] = (struct mapping){
		.addr = f->map, .size = f->size, .fd = f->fd, .ino = ino_of(f->fd)
	};
	pthread_mutex_unlock(&lock);
}

/* ------------------------------------------------------------------------- */
/* The other side */

/*
 * Only the kernel may say POLL_MSG and si_fd to another thread. What it cannot make
 * sense of has the library ask each lease, as after an overflow of the signal queue.
 */
static void send(const struct layout *l)
{
	struct f_owner_ex owner = { 0 };
	siginfo_t info = { .si_code = SI_QUEUE };

	info.si_signo = fcntl(l->fd, F_GETSIG);
	if (!info.si_signo || fcntl(l->fd, F_GETOWN_EX, &owner))
		return;
	if (owner.type == F_OWNER_TID)
		syscall(SYS_rt_tgsigqueueinfo, getpid(), owner.pid, info.si_signo, &info);
	else
		syscall(SYS_rt_sigqueueinfo, owner.pid, info.si_signo, &info);
}

static int begin_break(ino_t ino)
{
	int ret = 0;

	for (unsigned int i = 0; i < MAX_LEASES; i++) {
		const struct layout *l = &fake.leases[i];

		if (l->used && l->ino == ino && (l->flags & SYS_LAYOUT_UNBREAKABLE || l->late))
			return -ETXTBSY;
	}
	for (unsigned int i = 0; i < MAX_LEASES; i++) {
		struct layout *l = &fake.leases[i];

		if (!l->used || l->ino != ino)
			continue;
		ret = -EAGAIN;
		if (l->flags & SYS_LAYOUT_BREAKING)
			continue;
		l->flags |= SYS_LAYOUT_BREAKING;
		send(l);
	}
	return ret;
}

int fake_layout_break(const struct file *f)
{
	int ret;

	pthread_mutex_lock(&lock);
	ret = begin_break(ino_of(f->fd));
	pthread_mutex_unlock(&lock);
	return ret;
}

bool fake_layout_waits(const struct file *f)
{
	bool waits;

	pthread_mutex_lock(&lock);
	waits = is_breaking(ino_of(f->fd));
	pthread_mutex_unlock(&lock);
	return waits;
}

int fake_layout_deadline(const struct file *f)
{
	ino_t ino = ino_of(f->fd);
	int ret = 0;

	pthread_mutex_lock(&lock);
	for (struct layout *l = fake.leases; l < fake.leases + MAX_LEASES; l++) {
		if (!l->used || l->ino != ino || !(l->flags & SYS_LAYOUT_BREAKING))
			continue;
		if (pins_of(l)) {
			l->late = true;
			ret = -ETXTBSY;
		} else {
			drop(l);
		}
	}
	pthread_mutex_unlock(&lock);
	return ret;
}

void fake_layout_change(const struct file *f, bool goes_on)
{
	pthread_mutex_lock(&lock);
	fake.changing = goes_on ? ino_of(f->fd) : 0;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

unsigned int fake_layout_takers(void)
{
	unsigned int n;

	pthread_mutex_lock(&lock);
	n = fake.takers;
	pthread_mutex_unlock(&lock);
	return n;
}

unsigned int fake_layout_leases(const struct file *f)
{
	ino_t ino = f ? ino_of(f->fd) : 0;
	unsigned int n = 0;

	pthread_mutex_lock(&lock);
	for (unsigned int i = 0; i < MAX_LEASES; i++)
		n += fake.leases[i].used && (!f || fake.leases[i].ino == ino);
	pthread_mutex_unlock(&lock);
	return n;
}

bool fake_layout_is_exclusive(const struct file *f)
{
	unsigned int flags;

	return fake_layout_get(f->fd, &flags) == F_RDLCK && flags & SYS_LAYOUT_UNBREAKABLE;
}

unsigned int fake_layout_takes(void)
{
	unsigned int n;

	pthread_mutex_lock(&lock);
	n = fake.takes;
	pthread_mutex_unlock(&lock);
	return n;
}
