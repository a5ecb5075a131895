// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fake_layout.h"
#include "fake_uring.h"
#include "fault.h"
#include "support.h"
#include "sys.h"

#define MAX_RINGS 4
#define MAX_SLOTS 8
#define MAX_NODES 32
#define MAX_CQES 64

/* What was registered: lives for as long as it is in a slot or a request uses it. */
struct node {
	void *addr; /* NULL: none */
	uint64_t tag;
	unsigned int refs;
	unsigned int requests; /* of refs */
	unsigned int ended;    /* of requests */
};

struct fake_ring {
	ino_t ino; /* 0: none */
	pid_t tid; /* 0: any thread's */
	bool disabled;
	unsigned int nslots, resist, cancels;
	struct node nodes[MAX_NODES];
	struct node *slots[MAX_SLOTS];
	uint64_t cqes[MAX_CQES];
	unsigned int first, last;
};

static struct {
	struct fake_ring rings[MAX_RINGS];
	int forbidden;
	enum sys_cancel what;
	int fd;
	uint64_t user_data;
} fake;

/* Outside that of fake_layout.c. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void fake_rings_reset(void)
{
	pthread_mutex_lock(&lock);
	memset(&fake, 0, sizeof(fake));
	pthread_mutex_unlock(&lock);
}

void fake_rings_after_fork(void)
{
	pthread_mutex_init(&lock, NULL);
}

static ino_t ino_of(int fd)
{
	struct stat st;

	return fstat(fd, &st) ? 0 : st.st_ino;
}

static struct fake_ring *find(int fd)
{
	ino_t ino = ino_of(fd);

	for (unsigned int i = 0; i < MAX_RINGS; i++) {
		if (ino && fake.rings[i].ino == ino)
			return &fake.rings[i];
	}
	return NULL;
}

int fake_ring_make(unsigned int slots, bool single)
{
	int fd = memfd_create("fake-ring", MFD_CLOEXEC);
	struct fake_ring *ring = fake.rings;

	assert_true(fd >= 0 && slots <= MAX_SLOTS);
	pthread_mutex_lock(&lock);
	while (ring->ino)
		assert_true(++ring < fake.rings + MAX_RINGS);
	*ring = (struct fake_ring){ .ino = ino_of(fd),
				    .tid = single ? gettid() : 0,
				    .nslots = slots };
	pthread_mutex_unlock(&lock);
	return fd;
}

/* ------------------------------------------------------------------------- */
/* Nodes */

static void post(struct fake_ring *ring, uint64_t tag)
{
	assert_true(ring->last - ring->first < MAX_CQES);
	ring->cqes[ring->last++ % MAX_CQES] = tag;
}

static void put(struct fake_ring *ring, struct node *node)
{
	if (--node->refs)
		return;
	if (node->tag)
		post(ring, node->tag);
	fake_layout_unpin(node->addr);
	*node = (struct node){ 0 };
}

static void put_request(struct fake_ring *ring, struct node *node)
{
	node->requests--;
	put(ring, node);
}

static void let_go(struct fake_ring *ring)
{
	for (unsigned int i = 0; i < MAX_NODES; i++) {
		struct node *node = &ring->nodes[i];

		while (node->ended) {
			node->ended--;
			put_request(ring, node);
		}
	}
}

static void end_all(struct fake_ring *ring)
{
	for (unsigned int i = 0; i < MAX_NODES; i++)
		ring->nodes[i].ended = ring->nodes[i].requests;
	if (!ring->tid)
		let_go(ring);
}

static struct node *new_node(struct fake_ring *ring, void *addr, uint64_t tag)
{
	struct node *node = ring->nodes;

	while (node->addr)
		assert_true(++node < ring->nodes + MAX_NODES);
	*node = (struct node){ .addr = addr, .tag = tag, .refs = 1 };
	return node;
}

static int set_slot(struct fake_ring *ring, unsigned int slot, void *addr, uint64_t tag)
{
	struct node *node = NULL;
	int err;

	if (!ring->nslots)
		return -ENXIO;
	if (slot >= ring->nslots)
		return -EINVAL;
	if (addr) {
		err = fake_layout_pin(addr);
		if (err)
			return err;
		node = new_node(ring, addr, tag);
	}
	if (ring->slots[slot])
		put(ring, ring->slots[slot]);
	ring->slots[slot] = node;
	return 0;
}

/* ------------------------------------------------------------------------- */
/* The program's side */

void fake_ring_close(int fd)
{
	struct fake_ring *ring;

	pthread_mutex_lock(&lock);
	ring = find(fd);
	end_all(ring);
	let_go(ring);
	for (unsigned int i = 0; i < MAX_SLOTS; i++) {
		if (ring->slots[i])
			put(ring, ring->slots[i]);
	}
	*ring = (struct fake_ring){ 0 };
	pthread_mutex_unlock(&lock);
	close(fd);
}

void fake_ring_disable(int fd)
{
	pthread_mutex_lock(&lock);
	find(fd)->disabled = true;
	pthread_mutex_unlock(&lock);
}

void fake_rings_forbid(int err)
{
	pthread_mutex_lock(&lock);
	fake.forbidden = err;
	pthread_mutex_unlock(&lock);
}

bool fake_ring_use(int fd, unsigned int slot)
{
	struct node *node;

	pthread_mutex_lock(&lock);
	node = find(fd)->slots[slot];
	if (node) {
		node->refs++;
		node->requests++;
	}
	pthread_mutex_unlock(&lock);
	return node;
}

void fake_ring_end(int fd)
{
	pthread_mutex_lock(&lock);
	end_all(find(fd));
	pthread_mutex_unlock(&lock);
}

void fake_ring_resist(int fd, unsigned int times)
{
	pthread_mutex_lock(&lock);
	find(fd)->resist = times;
	pthread_mutex_unlock(&lock);
}

unsigned int fake_ring_cancels(int fd)
{
	unsigned int n;

	pthread_mutex_lock(&lock);
	n = find(fd)->cancels;
	pthread_mutex_unlock(&lock);
	return n;
}

int fake_ring_cancelled(int *ret_fd, uint64_t *ret_user_data)
{
	int what;

	pthread_mutex_lock(&lock);
	what = fake.what;
	*ret_fd = fake.fd;
	*ret_user_data = fake.user_data;
	pthread_mutex_unlock(&lock);
	return what;
}

bool fake_ring_cqe(int fd, uint64_t *ret_tag)
{
	struct fake_ring *ring;
	bool any;

	pthread_mutex_lock(&lock);
	ring = find(fd);
	any = ring->first != ring->last;
	if (any)
		*ret_tag = ring->cqes[ring->first++ % MAX_CQES];
	pthread_mutex_unlock(&lock);
	return any;
}

void *fake_ring_slot(int fd, unsigned int slot)
{
	struct node *node;
	void *addr;

	pthread_mutex_lock(&lock);
	node = find(fd)->slots[slot];
	addr = node ? node->addr : NULL;
	pthread_mutex_unlock(&lock);
	return addr;
}

void fake_ring_replace(int fd, unsigned int slot, void *addr)
{
	pthread_mutex_lock(&lock);
	assert_int_equal(set_slot(find(fd), slot, addr, 0), 0);
	pthread_mutex_unlock(&lock);
}

/* ------------------------------------------------------------------------- */
/* The library's calls */

int __real_sys_uring_probe(int ring_fd);
int __real_sys_uring_set_slot(int ring_fd, unsigned int slot, void *addr, size_t length,
			      uint64_t tag);
int __real_sys_uring_cancel(int ring_fd, enum sys_cancel what, int fd, uint64_t user_data);
int __real_sys_uring_flush(int ring_fd);
int __wrap_sys_uring_probe(int ring_fd);
int __wrap_sys_uring_set_slot(int ring_fd, unsigned int slot, void *addr, size_t length,
			      uint64_t tag);
int __wrap_sys_uring_cancel(int ring_fd, enum sys_cancel what, int fd, uint64_t user_data);
int __wrap_sys_uring_flush(int ring_fd);

/* With the lock. */
static int may_change(const struct fake_ring *ring)
{
	if (fake.forbidden)
		return fake.forbidden;
	return ring->tid && ring->tid != gettid() ? -EEXIST : 0;
}

int __wrap_sys_uring_probe(int ring_fd)
{
	int err = fault_check("sys_uring_probe", -EINTR);
	struct fake_ring *ring;

	if (err)
		return err;
	pthread_mutex_lock(&lock);
	ring = find(ring_fd);
	err = ring ? may_change(ring) : 0;
	pthread_mutex_unlock(&lock);
	return ring ? err : __real_sys_uring_probe(ring_fd);
}

int __wrap_sys_uring_set_slot(int ring_fd, unsigned int slot, void *addr, size_t length,
			      uint64_t tag)
{
	int err = addr ? fault_check("sys_uring_set_slot", -EIO) :
			 fault_check("sys_uring_set_slot(NULL)", -EINTR);
	struct fake_ring *ring;

	if (err)
		return err;
	pthread_mutex_lock(&lock);
	ring = find(ring_fd);
	err = ring ? may_change(ring) : 0;
	if (ring && !err)
		err = set_slot(ring, slot, addr, tag);
	pthread_mutex_unlock(&lock);
	return ring ? err : __real_sys_uring_set_slot(ring_fd, slot, addr, length, tag);
}

static int cancel(struct fake_ring *ring)
{
	ring->cancels++;
	if (ring->resist) {
		ring->resist--;
		return 0;
	}
	end_all(ring);
	return 1;
}

int __wrap_sys_uring_cancel(int ring_fd, enum sys_cancel what, int fd, uint64_t user_data)
{
	int ret = fault_check("sys_uring_cancel", -EINTR);
	struct fake_ring *ring;

	if (ret)
		return ret;
	pthread_mutex_lock(&lock);
	fake.what = what;
	fake.fd = fd;
	fake.user_data = user_data;
	ring = find(ring_fd);
	ret = ring ? may_change(ring) : 0;
	if (ring && !ret)
		ret = cancel(ring);
	pthread_mutex_unlock(&lock);
	return ring ? ret : __real_sys_uring_cancel(ring_fd, what, fd, user_data);
}

int __wrap_sys_uring_flush(int ring_fd)
{
	int err = fault_check("sys_uring_flush", -EINTR);
	struct fake_ring *ring;

	if (err)
		return err;
	pthread_mutex_lock(&lock);
	ring = find(ring_fd);
	err = ring && ring->disabled ? -EBADFD : 0;
	if (ring && !err && ring->tid == gettid())
		let_go(ring);
	pthread_mutex_unlock(&lock);
	return ring ? err : __real_sys_uring_flush(ring_fd);
}
