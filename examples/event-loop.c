/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * event-loop: DAXLEASE_MODE_LOOP beside a completion channel, in one thread.
 *
 * Two queue pairs of DEVICE are connected to each other. RDMA writes go from
 * ordinary memory to random blocks of FILE, DEPTH of them outstanding, until
 * SIGINT or SIGTERM. When somebody wants to change the file, nothing more is
 * posted. The last completion answers the break. With DAXLEASE_MR_REGAIN the
 * library registers the file again and the writes go on with the new key.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <daxlease/daxlease.h>

#define PORT 1
#define DEPTH 8
#define BLOCK 4096u

struct loop {
	/* verbs */
	struct ibv_context *device;
	struct ibv_pd *pd;
	struct ibv_comp_channel *channel;
	struct ibv_cq *cq;
	struct ibv_qp *qp[2];
	struct ibv_mr *source_mr;
	char source[BLOCK];

	/* the file */
	int fd;
	char *addr;
	size_t size;
	struct daxlease_ctx *ctx;
	struct daxlease_mr *mr;

	/* what may be written just now */
	uint32_t rkey;
	size_t blocks; /* 0: post nothing */
	bool draining;

	unsigned int outstanding;
	unsigned long completed;
	bool stop;
	int error;

	int epoll_fd;
	int signal_fd;
};

static int fail(const char *what, int err)
{
	fprintf(stderr, "event-loop: %s: %s\n", what, strerror(-err));
	return err;
}

static void say(enum daxlease_log_level level, const char *line, void *userdata)
{
	(void)level;
	(void)userdata;
	fprintf(stderr, "daxlease: %s\n", line);
}

static void stop_with(struct loop *l, int err)
{
	l->stop = true;
	if (!l->error)
		l->error = err;
}

/* ------------------------------------------------------------------------- */
/* The data path: not one line of it calls into libdaxlease. */

static int post_write(struct loop *l)
{
	size_t block = (size_t)random() % l->blocks;
	struct ibv_sge sge = {
		.addr = (uintptr_t)l->source,
		.length = BLOCK,
		.lkey = l->source_mr->lkey,
	};
	struct ibv_send_wr wr = {
		.sg_list = &sge,
		.num_sge = 1,
		.opcode = IBV_WR_RDMA_WRITE,
		.send_flags = IBV_SEND_SIGNALED,
		.wr.rdma.remote_addr = (uintptr_t)l->addr + block * BLOCK,
		.wr.rdma.rkey = l->rkey,
	};
	struct ibv_send_wr *bad;
	int err;

	err = ibv_post_send(l->qp[0], &wr, &bad);
	if (err)
		return fail("ibv_post_send", -err);
	l->outstanding++;
	return 0;
}

static void post_all(struct loop *l)
{
	int err = 0;

	while (!err && !l->stop && !l->draining && l->blocks && l->outstanding < DEPTH)
		err = post_write(l);
	if (err)
		stop_with(l, err);
}

/* ------------------------------------------------------------------------- */
/* Breaks: the callbacks run inside daxlease_ctx_dispatch(), in this thread. */

static int on_drain(struct daxlease_mr *mr, const struct daxlease_break *brk, void *userdata)
{
	struct loop *l = userdata;

	(void)mr;
	(void)brk;
	printf("drain: %u writes outstanding\n", l->outstanding);
	l->draining = true;
	return l->outstanding ? DAXLEASE_PENDING : 0;
}

static void on_release(struct daxlease_mr *mr, int result, void *userdata)
{
	struct loop *l = userdata;

	(void)mr;
	printf("released: %s\n", result ? strerror(-result) : "drained in time");
	l->blocks = 0;
	/* Fenced: the queue pairs are in the error state. This program ends then. */
	if (result)
		stop_with(l, result);
}

static void on_regain(struct daxlease_mr *mr, const struct daxlease_regain *regain, void *userdata)
{
	struct loop *l = userdata;

	(void)mr;
	if (regain->error) {
		stop_with(l, fail("regain", regain->error));
		return;
	}
	printf("regained: rkey 0x%08x, %zu bytes\n", regain->rkey, regain->length);
	l->rkey = regain->rkey;
	l->blocks = regain->length / BLOCK;
	l->draining = false;
}

/* ------------------------------------------------------------------------- */
/* Events */

static void take_completions(struct loop *l)
{
	struct ibv_wc wc[DEPTH];
	int n;

	while ((n = ibv_poll_cq(l->cq, DEPTH, wc)) > 0) {
		for (int i = 0; i < n; i++) {
			l->outstanding--;
			if (wc[i].status == IBV_WC_SUCCESS) {
				l->completed++;
				continue;
			}
			fprintf(stderr, "event-loop: write: %s\n", ibv_wc_status_str(wc[i].status));
			stop_with(l, -EIO);
		}
	}
	if (n < 0)
		stop_with(l, fail("ibv_poll_cq", -EIO));
}

static void on_channel(struct loop *l)
{
	struct ibv_cq *cq;
	void *cq_userdata;

	if (ibv_get_cq_event(l->channel, &cq, &cq_userdata)) {
		stop_with(l, fail("ibv_get_cq_event", -errno));
		return;
	}
	ibv_ack_cq_events(cq, 1);
	if (ibv_req_notify_cq(l->cq, 0)) {
		stop_with(l, fail("ibv_req_notify_cq", -EIO));
		return;
	}
	take_completions(l);

	/* The answer to on_drain(); too late (-ETIMEDOUT) is told to on_release(). */
	if (l->draining && !l->outstanding)
		(void)daxlease_mr_drained(l->mr);
}

static void on_lease(struct loop *l)
{
	int n = daxlease_ctx_dispatch(l->ctx);

	if (n < 0)
		stop_with(l, fail("daxlease_ctx_dispatch", n));
}

static int watch(struct loop *l, int fd)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.fd = fd };

	if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &ev))
		return fail("epoll_ctl", -errno);
	return 0;
}

static int run(struct loop *l)
{
	int lease_fd = daxlease_ctx_get_fd(l->ctx);
	struct epoll_event ev[3];
	int err;

	if (lease_fd < 0)
		return fail("daxlease_ctx_get_fd", lease_fd);
	err = watch(l, lease_fd);
	if (!err)
		err = watch(l, l->channel->fd);
	if (!err)
		err = watch(l, l->signal_fd);
	if (err)
		return err;

	while (!l->stop) {
		int n;

		post_all(l);
		n = epoll_wait(l->epoll_fd, ev, 3, -1);
		if (n < 0 && errno != EINTR)
			return fail("epoll_wait", -errno);
		for (int i = 0; i < n; i++) {
			if (ev[i].data.fd == lease_fd)
				on_lease(l);
			else if (ev[i].data.fd == l->channel->fd)
				on_channel(l);
			else
				l->stop = true;
		}
	}
	return l->error;
}

/* ------------------------------------------------------------------------- */
/* Setting up and tearing down; what is absent is NULL or -1. */

static int open_device(struct loop *l, const char *name)
{
	struct ibv_device **list = ibv_get_device_list(NULL);

	if (!list)
		return fail("ibv_get_device_list (is ib_uverbs loaded?)", -errno);
	errno = ENODEV;
	for (int i = 0; list[i]; i++) {
		if (!strcmp(ibv_get_device_name(list[i]), name)) {
			l->device = ibv_open_device(list[i]);
			break;
		}
	}
	ibv_free_device_list(list);
	return l->device ? 0 : fail(name, -errno);
}

static int open_file(struct loop *l, const char *name)
{
	struct stat st;
	void *addr;

	l->fd = open(name, O_RDWR | O_CLOEXEC);
	if (l->fd < 0 || fstat(l->fd, &st))
		return fail(name, -errno);
	if (!st.st_size) {
		fputs("event-loop: FILE is empty\n", stderr);
		return -EINVAL;
	}
	addr = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, l->fd, 0);
	if (addr == MAP_FAILED)
		return fail("mmap", -errno);
	l->addr = addr;
	l->size = (size_t)st.st_size;
	return 0;
}

static int open_events(struct loop *l)
{
	sigset_t mask;

	sigemptyset(&mask);
	sigaddset(&mask, SIGINT);
	sigaddset(&mask, SIGTERM);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	l->signal_fd = signalfd(-1, &mask, SFD_CLOEXEC);
	if (l->signal_fd < 0)
		return fail("signalfd", -errno);
	l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (l->epoll_fd < 0)
		return fail("epoll_create1", -errno);
	return 0;
}

static struct ibv_qp *create_qp(struct loop *l)
{
	struct ibv_qp_init_attr init = {
		.send_cq = l->cq,
		.recv_cq = l->cq,
		.cap = { .max_send_wr = DEPTH,
			 .max_recv_wr = 1,
			 .max_send_sge = 1,
			 .max_recv_sge = 1 },
		.qp_type = IBV_QPT_RC,
	};

	return ibv_create_qp(l->pd, &init);
}

static int connect_qp(struct ibv_qp *qp, const struct ibv_qp *peer,
		      const struct ibv_port_attr *port, const union ibv_gid *gid, uint8_t gid_index)
{
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_INIT,
		.port_num = PORT,
		.qp_access_flags = IBV_ACCESS_REMOTE_WRITE,
	};
	int err;

	err = ibv_modify_qp(qp, &attr,
			    IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
	if (err)
		return -err;

	attr = (struct ibv_qp_attr){
		.qp_state = IBV_QPS_RTR,
		.path_mtu = port->active_mtu,
		.dest_qp_num = peer->qp_num,
		.max_dest_rd_atomic = 1,
		.min_rnr_timer = 12,
		.ah_attr = {
			.dlid = port->lid,
			.is_global = 1,
			.port_num = PORT,
			.grh = { .dgid = *gid, .sgid_index = gid_index, .hop_limit = 1 },
		},
	};
	err = ibv_modify_qp(qp, &attr,
			    IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
				    IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC |
				    IBV_QP_MIN_RNR_TIMER);
	if (err)
		return -err;

	attr = (struct ibv_qp_attr){
		.qp_state = IBV_QPS_RTS,
		.timeout = 14,
		.retry_cnt = 6, /* soft-RoCE takes 7 for "for ever" */
		.rnr_retry = 7,
		.max_rd_atomic = 1,
	};
	err = ibv_modify_qp(qp, &attr,
			    IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
				    IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC);
	return -err;
}

static int open_verbs(struct loop *l, uint8_t gid_index)
{
	struct ibv_port_attr port;
	union ibv_gid gid;
	int err;

	if (ibv_query_port(l->device, PORT, &port))
		return fail("ibv_query_port", -errno);
	if (ibv_query_gid(l->device, PORT, gid_index, &gid))
		return fail("ibv_query_gid", -errno);

	l->pd = ibv_alloc_pd(l->device);
	if (!l->pd)
		return fail("ibv_alloc_pd", -errno);
	l->channel = ibv_create_comp_channel(l->device);
	if (!l->channel)
		return fail("ibv_create_comp_channel", -errno);
	l->cq = ibv_create_cq(l->device, 2 * DEPTH, NULL, l->channel, 0);
	if (!l->cq)
		return fail("ibv_create_cq", -errno);
	if (ibv_req_notify_cq(l->cq, 0))
		return fail("ibv_req_notify_cq", -EIO);
	l->source_mr = ibv_reg_mr(l->pd, l->source, BLOCK, 0);
	if (!l->source_mr)
		return fail("ibv_reg_mr", -errno);

	for (int i = 0; i < 2; i++) {
		l->qp[i] = create_qp(l);
		if (!l->qp[i])
			return fail("ibv_create_qp", -errno);
	}
	for (int i = 0; i < 2; i++) {
		err = connect_qp(l->qp[i], l->qp[!i], &port, &gid, gid_index);
		if (err)
			return fail("ibv_modify_qp", err);
	}
	return 0;
}

static int open_region(struct loop *l)
{
	const struct daxlease_ctx_opts ctx_opts = {
		.size = sizeof(ctx_opts),
		.mode = DAXLEASE_MODE_LOOP,
		.log_fn = say,
		.log_level = DAXLEASE_LOG_INFO,
	};
	const struct daxlease_mr_opts mr_opts = {
		.size = sizeof(mr_opts),
		.flags = DAXLEASE_MR_REGAIN,
		.drain = on_drain,
		.release = on_release,
		.regain = on_regain,
		.userdata = l,
	};
	struct daxlease_mr_info info = { .size = sizeof(info) };
	int access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE;
	int err;

	err = daxlease_ctx_new(&ctx_opts, &l->ctx);
	if (err)
		return fail("daxlease_ctx_new", err);
	err = daxlease_reg_mr(l->ctx, l->pd, l->fd, l->addr, l->size, access, &mr_opts, &l->mr);
	if (err)
		return fail("daxlease_reg_mr", err);
	/* Both ends are fenced if a drain should take too long. */
	for (int i = 0; i < 2; i++) {
		err = daxlease_mr_add_qp(l->mr, l->qp[i]);
		if (err)
			return fail("daxlease_mr_add_qp", err);
	}
	err = daxlease_mr_get_info(l->mr, &info);
	if (err)
		return fail("daxlease_mr_get_info", err);
	l->rkey = info.rkey;
	l->blocks = info.registered / BLOCK;
	printf("registered: rkey 0x%08x, %zu bytes\n", info.rkey, info.registered);
	return 0;
}

static int close_all(struct loop *l)
{
	int err = 0;

	/* Destroying the queue pairs ends what is outstanding. */
	for (int i = 0; i < 2; i++) {
		if (!l->qp[i])
			continue;
		if (l->mr)
			(void)daxlease_mr_remove_qp(l->mr, l->qp[i]);
		ibv_destroy_qp(l->qp[i]);
	}
	if (l->mr) {
		err = daxlease_dereg_mr(l->mr);
		if (err)
			return fail("daxlease_dereg_mr", err);
	}
	if (l->ctx)
		err = daxlease_ctx_free(l->ctx);
	if (l->source_mr)
		ibv_dereg_mr(l->source_mr);
	if (l->cq)
		ibv_destroy_cq(l->cq);
	if (l->channel)
		ibv_destroy_comp_channel(l->channel);
	if (l->pd)
		ibv_dealloc_pd(l->pd);
	if (l->device)
		ibv_close_device(l->device);
	if (l->addr)
		munmap(l->addr, l->size);
	if (l->fd >= 0)
		close(l->fd);
	if (l->epoll_fd >= 0)
		close(l->epoll_fd);
	if (l->signal_fd >= 0)
		close(l->signal_fd);
	return err;
}

int main(int argc, char **argv)
{
	struct loop l = { .fd = -1, .epoll_fd = -1, .signal_fd = -1 };
	uint8_t gid_index;
	int err, close_err;

	if (argc != 3 && argc != 4) {
		fputs("usage: event-loop FILE DEVICE [GID-INDEX]\n", stderr);
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	gid_index = (uint8_t)(argc == 4 ? atoi(argv[3]) : 0);
	memset(l.source, 'x', sizeof(l.source));

	err = open_file(&l, argv[1]);
	if (!err)
		err = open_events(&l);
	if (!err)
		err = open_device(&l, argv[2]);
	if (!err)
		err = open_verbs(&l, gid_index);
	if (!err)
		err = open_region(&l);
	if (!err) {
		err = run(&l);
		printf("%lu writes completed\n", l.completed);
	}
	close_err = close_all(&l);
	return err || close_err ? 1 : 0;
}
