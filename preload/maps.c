// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "maps.h"
#include "say.h"
#include "shim.h"
#include "sys.h"

struct mapping {
	uintptr_t start, end;
	struct source *source;
};

struct maps_taken {
	size_t n, max;
	struct mapping pieces[];
};

/*
 * Protects everything below. A leaf: nothing is called while it is held that may come back to
 * the hooks of mmap(2) and munmap(2), as malloc(3) may.
 */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct mapping *mappings; /* in the order of their addresses */
static size_t nmappings, max_mappings;
static struct source *sources;
/* No mapping is outside of these; read without the lock. */
static _Atomic uintptr_t lowest = UINTPTR_MAX, highest;

void maps_lock(void)
{
	pthread_mutex_lock(&lock);
}

void maps_unlock(void)
{
	pthread_mutex_unlock(&lock);
}

static bool is_near(uintptr_t start, uintptr_t end)
{
	return start < atomic_load_explicit(&highest, memory_order_acquire) &&
	       end > atomic_load_explicit(&lowest, memory_order_acquire);
}

static void set_bounds(void)
{
	atomic_store(&lowest, nmappings ? mappings[0].start : UINTPTR_MAX);
	atomic_store(&highest, nmappings ? mappings[nmappings - 1].end : 0);
}

/* The first that ends after addr. */
static size_t first_after(uintptr_t addr)
{
	size_t low = 0, high = nmappings;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (mappings[middle].end > addr)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

/* Takes the lock, with room for two more; false: out of memory, and not taken. */
static bool lock_with_room(void)
{
	struct mapping *room = NULL, *old;
	size_t max = 0;

	for (;;) {
		maps_lock();
		if (nmappings + 2 <= max_mappings)
			break;
		if (nmappings + 2 <= max) {
			old = mappings;
			if (nmappings)
				memcpy(room, mappings, nmappings * sizeof(*room));
			mappings = room;
			max_mappings = max;
			room = old;
			break;
		}
		max = (max_mappings ? max_mappings : 16) * 2;
		maps_unlock();
		free(room);
		room = calloc(max, sizeof(*room));
		if (!room)
			return false;
	}
	/* Freed with the lock held it could come back to us. */
	if (room) {
		maps_unlock();
		free(room);
		return lock_with_room();
	}
	return true;
}

static void insert_at(size_t i, uintptr_t start, uintptr_t end, struct source *source)
{
	memmove(&mappings[i + 1], &mappings[i], (nmappings - i) * sizeof(*mappings));
	mappings[i] = (struct mapping){ start, end, source };
	nmappings++;
	source->refs++;
}

static void unlink_source(struct source *source)
{
	struct source **p = &sources;

	while (*p != source)
		p = &(*p)->next;
	*p = source->next;
}

/* Those that nobody uses any more are put on *gone, for after the lock. */
static void put_locked(struct source *source, struct source **gone)
{
	if (--source->refs)
		return;
	unlink_source(source);
	source->next = *gone;
	*gone = source;
}

/* Not if the program has closed it, and got the number for something of its own. */
static void close_duplicate(const struct source *source)
{
	struct sys_file file;

	if (!sys_file_info(source->fd, &file) && file.dev == source->dev && file.ino == source->ino)
		sys_close(source->fd);
}

static void close_all(struct source *gone)
{
	while (gone) {
		struct source *next = gone->next;

		close_duplicate(gone);
		free(gone);
		gone = next;
	}
}

void maps_put(struct source *source)
{
	struct source *gone = NULL;

	maps_lock();
	put_locked(source, &gone);
	maps_unlock();
	close_all(gone);
}

/* Cuts [start, end) out, which may make two of one. There is room. */
static void cut(uintptr_t start, uintptr_t end, struct source **gone)
{
	size_t i = first_after(start);

	while (i < nmappings && mappings[i].start < end) {
		struct mapping *m = &mappings[i];
		uintptr_t old_end = m->end;

		if (m->start < start) {
			m->end = start;
			i++;
			if (old_end > end)
				insert_at(i, end, old_end, m->source);
		} else if (old_end > end) {
			m->start = end;
		} else {
			put_locked(m->source, gone);
			nmappings--;
			memmove(m, m + 1, (nmappings - i) * sizeof(*m));
		}
	}
	set_bounds();
}

static bool meets(uintptr_t start, uintptr_t end)
{
	bool found;
	size_t i;

	maps_lock();
	i = first_after(start);
	found = i < nmappings && mappings[i].start < end;
	maps_unlock();
	return found;
}

/* An allocator unmaps its own memory, and cannot be asked for some meanwhile. */
void maps_remove(const void *addr, size_t length)
{
	uintptr_t start = (uintptr_t)addr, end = start + length;
	struct source *gone = NULL;

	if (!is_near(start, end) || !meets(start, end))
		return;
	if (!lock_with_room()) {
		say(DAXLEASE_LOG_ERR, "out of memory: %p+%zu is still taken for a mapping", addr,
		    length);
		return;
	}
	cut(start, end, &gone);
	maps_unlock();
	close_all(gone);
}

void maps_add_source(const void *addr, size_t length, struct source *source)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	uintptr_t start = (uintptr_t)addr, end = (start + length + page - 1) & ~(page - 1);
	struct source *gone = NULL;

	if (!lock_with_room()) {
		say(DAXLEASE_LOG_ERR, "out of memory: the mapping at %p will not be leased", addr);
		return;
	}
	/* There may be an old one still, of which we were not told that it is gone. */
	cut(start, end, &gone);
	maps_unlock();
	close_all(gone);
	if (!lock_with_room())
		return;
	insert_at(first_after(start), start, end, source);
	set_bounds();
	maps_unlock();
}

static struct maps_taken *new_taken(size_t max)
{
	struct maps_taken *t = calloc(1, sizeof(*t) + max * sizeof(t->pieces[0]));

	if (t)
		t->max = max;
	return t;
}

/* With a reference for each; false: there is no room for all. */
static bool copy_pieces(struct maps_taken *t, uintptr_t start, uintptr_t end)
{
	size_t first, i;

	maps_lock();
	first = first_after(start);
	for (i = first; i < nmappings && mappings[i].start < end; i++)
		;
	t->n = i - first;
	for (i = 0; t->n <= t->max && i < t->n; i++) {
		struct mapping *p = &t->pieces[i];

		*p = mappings[first + i];
		p->start = p->start < start ? start : p->start;
		p->end = p->end > end ? end : p->end;
		p->source->refs++;
	}
	maps_unlock();
	return t->n <= t->max;
}

struct maps_taken *maps_take(const void *addr, size_t length)
{
	uintptr_t start = (uintptr_t)addr, end = start + length;
	struct maps_taken *t;
	int saved = errno;

	if (!is_near(start, end) || !meets(start, end))
		return NULL;
	for (t = new_taken(1); t && !copy_pieces(t, start, end);) {
		size_t n = t->n;

		free(t);
		t = new_taken(n);
	}
	maps_remove(addr, length);
	errno = saved;
	return t;
}

void maps_taken(struct maps_taken *t, bool stays)
{
	int saved = errno, cancel;

	if (!t)
		return;
	cancel = shim_uncancelable();
	for (size_t i = 0; i < t->n; i++) {
		struct mapping *p = &t->pieces[i];

		if (stays)
			maps_add_source((const void *)p->start, p->end - p->start, p->source);
		maps_put(p->source);
	}
	free(t);
	shim_cancelable(cancel);
	errno = saved;
}

/* One whose description is the same, with a reference; the lock is not held. */
static struct source *find_source(int fd, const struct sys_file *file)
{
	struct source *s;

	maps_lock();
	for (s = sources; s; s = s->next) {
		if (s->dev == file->dev && s->ino == file->ino &&
		    sys_same_description(s->fd, fd) == 1) {
			s->refs++;
			break;
		}
	}
	maps_unlock();
	return s;
}

/*
 * Far up, so that the program's descriptors have the numbers that they have without us, and
 * that a program which closes a few low ones does not meet ours.
 */
static int duplicate(int fd)
{
	struct rlimit limit;
	int copy = -1;

	if (!getrlimit(RLIMIT_NOFILE, &limit) && limit.rlim_cur > 64)
		copy = fcntl(fd, F_DUPFD_CLOEXEC,
			     limit.rlim_cur > 4096 ? 1024 : (int)(limit.rlim_cur / 2));
	return copy >= 0 ? copy : sys_dup(fd);
}

static struct source *new_source(int fd, const struct sys_file *file)
{
	struct source *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	*s = (struct source){ .refs = 1, .fd = fd, .dev = file->dev, .ino = file->ino };
	maps_lock();
	s->next = sources;
	sources = s;
	maps_unlock();
	return s;
}

static struct source *source_of(int fd, const struct sys_file *file)
{
	struct source *s = find_source(fd, file);
	int copy;

	if (s)
		return s;
	copy = duplicate(fd);
	if (copy < 0) {
		say(DAXLEASE_LOG_ERR,
		    "mapping of fd %d: %s: no duplicate of it, it will not be leased: raise "
		    "the limit of descriptors (ulimit -n)",
		    fd, strerror(-copy));
		return NULL;
	}
	s = new_source(copy, file);
	if (!s)
		sys_close(copy);
	return s;
}

void maps_add(const void *addr, size_t length, int fd)
{
	int saved = errno;
	struct sys_file file;
	struct source *s;

	if (!sys_file_info(fd, &file) && file.dax && S_ISREG(file.mode)) {
		s = source_of(fd, &file);
		if (s) {
			maps_add_source(addr, length, s);
			maps_put(s);
		}
		say(DAXLEASE_LOG_DEBUG, "mmap: %p+%zu is FS-DAX, inode %ju", addr, length,
		    (uintmax_t)file.ino);
	}
	errno = saved;
}

struct source *maps_find(const void *addr, size_t length, const void **ret_at)
{
	uintptr_t start = (uintptr_t)addr, end = start + length;
	struct source *s = NULL;
	size_t i;

	if (!is_near(start, end))
		return NULL;
	maps_lock();
	i = first_after(start);
	if (i < nmappings && mappings[i].start < end) {
		s = mappings[i].source;
		s->refs++;
		if (ret_at)
			*ret_at = (const void *)(mappings[i].start > start ? mappings[i].start :
									     start);
	}
	maps_unlock();
	return s;
}

bool maps_is_current(const void *addr, const struct source *source)
{
	int cancel = shim_uncancelable(), maps_fd = sys_open_maps(), err;
	struct sys_vma vma;

	if (maps_fd < 0) {
		shim_cancelable(cancel);
		return true;
	}
	err = sys_query_vma(maps_fd, (uintptr_t)addr, &vma);
	sys_close(maps_fd);
	shim_cancelable(cancel);
	if (!err && vma.shared && vma.dev == source->dev && vma.ino == source->ino)
		return true;
	if (!err)
		maps_remove((const void *)vma.start, vma.end - vma.start);
	return false;
}

/* Not to wait for somebody's lease, and not to be waited for by a terminal. */
static int open_again(const char *path, const struct sys_vma *vma)
{
	int flags = (vma->writable ? O_RDWR : O_RDONLY) | O_NONBLOCK | O_CLOEXEC | O_NOCTTY;
	int fd = (int)syscall(SYS_openat, AT_FDCWD, path, flags);

	return fd < 0 ? -errno : fd;
}

static int is_dax_file(const char *name, const struct sys_vma *vma)
{
	struct sys_file file;

	return name[0] == '/' && !sys_path_info(name, &file) && file.dax && S_ISREG(file.mode) &&
	       file.ino == vma->ino && file.dev == vma->dev;
}

int maps_adopt(const void *addr, struct source **ret_source)
{
	int maps_fd = sys_open_maps(), err, fd;
	struct source *s = NULL;
	struct sys_file file;
	struct sys_vma vma;
	char name[PATH_MAX];

	if (maps_fd < 0)
		return maps_fd;
	err = sys_query_vma(maps_fd, (uintptr_t)addr, &vma);
	if (!err)
		err = sys_vma_name(maps_fd, (uintptr_t)addr, name, sizeof(name));
	sys_close(maps_fd);
	if (err || !vma.shared || !vma.ino || !is_dax_file(name, &vma))
		return 0;
	fd = open_again(name, &vma);
	if (fd < 0)
		return fd;
	if (!sys_file_info(fd, &file) && file.ino == vma.ino && file.dev == vma.dev)
		s = source_of(fd, &file);
	sys_close(fd);
	if (!s)
		return -ENOENT;
	*ret_source = s;
	return 0;
}
