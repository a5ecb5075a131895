/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * uring-loop: one thread, one ring, and everything in it.
 *
 * Blocks of SOURCE, a file on a disk, are copied to FILE, which is on FS-DAX, with READ_FIXED into
 * a leased buffer: the disk's data goes to the persistent memory without a copy between. From
 * there each block is sent on by an RDMA write of DEVICE (to ordinary memory of this program, as
 * there is nobody else). The completion channel, the library's descriptor and signals are
 * multishot polls in the same ring.
 *
 * When somebody wants to change FILE, no more blocks are copied. What is under way ends: the
 * library knows when that is the case for the ring, and the program for the queue pair. Then both
 * registrations are gone, and come back when the others are done. Needs layout leases.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <liburing.h>

#include <daxlease/uring.h>

#define PORT 1
#define DEPTH 8
#define BLOCK 4096u
#define SLOT 0

/* user_data of what is polled; blocks have their number, from EVENTS on. */
enum event {
	LEASES,
	WRITES,
	SIGNALS,
	EVENTS
};

struct server {
	struct io_uring ring;
	bool ring_open;
	int polled[EVENTS];

	/* verbs */
	struct ibv_context *device;
	struct ibv_pd *pd;
	struct ibv_comp_channel *channel;
	struct ibv_cq *cq;
	struct ibv_qp *qp[2];
	struct ibv_mr *sink_mr;
	char sink[BLOCK];

	/* the files */
	int source, fd;
	char *addr;
	size_t size, source_blocks;
	struct daxlease_ctx *ctx;
	struct daxlease_ring *leases;
	struct daxlease_buf *buf; /* what the disk reads into */
	struct daxlease_mr *mr;	  /* what is sent */

	/* what may be done just now */
	size_t buf_blocks; /* 0: copy nothing */
	size_t mr_blocks;  /* 0: send nothing */
	uint32_t lkey;
	bool draining; /* answer when the last write is done */

	size_t next;
	unsigned int copies, writes; /* under way */
	unsigned long copied, sent;
	bool stop;
	int error;
};

static int fail(const char *what, int err)
{
	fprintf(stderr, "uring-loop: %s: %s\n", what, strerror(-err));
	return err;
}

static void stop_with(struct server *s, int err)
{
	s->stop = true;
	if (!s->error)
		s->error = err;
}

static void say(enum daxlease_log_level level, const char *line, void *userdata)
{
	(void)level;
	(void)userdata;
	fprintf(stderr, "daxlease: %s\n", line);
}

/* ------------------------------------------------------------------------- */
/* The data path */

static struct io_uring_sqe *get_sqe(struct server *s)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&s->ring);

	if (!sqe && io_uring_submit(&s->ring) >= 0)
		sqe = io_uring_get_sqe(&s->ring);
	if (!sqe)
		abort(); /* the ring is larger than all that is ever submitted at once */
	return sqe;
}

static void copy_block(struct server *s)
{
	size_t block = s->next++ % s->buf_blocks;
	struct io_uring_sqe *sqe = get_sqe(s);

	io_uring_prep_read_fixed(sqe, s->source, s->addr + block * BLOCK, BLOCK,
				 block % s->source_blocks * BLOCK, SLOT);
	io_uring_sqe_set_data64(sqe, EVENTS + block);
	s->copies++;
}

static void copy_all(struct server *s)
{
	while (!s->stop && s->buf_blocks && s->mr_blocks && s->copies + s->writes < DEPTH)
		copy_block(s);
}

static int send_block(struct server *s, size_t block)
{
	struct ibv_sge sge = {
		.addr = (uintptr_t)s->addr + block * BLOCK,
		.length = BLOCK,
		.lkey = s->lkey,
	};
	struct ibv_send_wr wr = {
		.sg_list = &sge,
		.num_sge = 1,
		.opcode = IBV_WR_RDMA_WRITE,
		.send_flags = IBV_SEND_SIGNALED,
		.wr.rdma.remote_addr = (uintptr_t)s->sink,
		.wr.rdma.rkey = s->sink_mr->rkey,
	};
	struct ibv_send_wr *bad;
	int err = ibv_post_send(s->qp[0], &wr, &bad);

	if (err)
		return fail("ibv_post_send", -err);
	s->writes++;
	return 0;
}

static void on_copied(struct server *s, size_t block, int res)
{
	s->copies--;
	/* Submitted when the slot was empty already, or cancelled: it is copied again later. */
	if (res == -EFAULT || res == -ECANCELED || res == -EINTR)
		return;
	if (res < 0) {
		stop_with(s, fail("READ_FIXED", res));
		return;
	}
	s->copied++;
	if (block < s->mr_blocks && !s->stop && send_block(s, block))
		stop_with(s, -EIO);
}

/* ------------------------------------------------------------------------- */
/* Breaks: the callbacks run inside daxlease_ctx_dispatch(), in this thread. */

/* Of the buffer. What is under way is the library's business. */
static int on_buf_drain(struct daxlease_buf *buf, const struct daxlease_break *brk, void *userdata)
{
	struct server *s = userdata;

	(void)buf;
	(void)brk;
	printf("drain: %u copies under way\n", s->copies);
	s->buf_blocks = 0;
	return 0;
}

static void on_buf_regain(struct daxlease_buf *buf, const struct daxlease_buf_regain *regain,
			  void *userdata)
{
	struct server *s = userdata;

	(void)buf;
	if (regain->error)
		stop_with(s, fail("regain", regain->error));
	else
		s->buf_blocks = regain->length / BLOCK;
}

static int on_mr_drain(struct daxlease_mr *mr, const struct daxlease_break *brk, void *userdata)
{
	struct server *s = userdata;

	(void)mr;
	(void)brk;
	printf("drain: %u writes outstanding\n", s->writes);
	s->mr_blocks = 0;
	s->draining = s->writes;
	return s->draining ? DAXLEASE_PENDING : 0;
}

static void on_mr_release(struct daxlease_mr *mr, int result, void *userdata)
{
	(void)mr;
	printf("released: %s\n", result ? strerror(-result) : "drained in time");
	/* Fenced: the queue pairs are in the error state. This program ends then. */
	if (result)
		stop_with(userdata, result);
}

static void on_mr_regain(struct daxlease_mr *mr, const struct daxlease_regain *regain,
			 void *userdata)
{
	struct server *s = userdata;

	(void)mr;
	if (regain->error) {
		stop_with(s, fail("regain", regain->error));
		return;
	}
	printf("regained: %zu bytes\n", regain->length);
	s->lkey = regain->lkey;
	s->mr_blocks = regain->length / BLOCK;
}

/* ------------------------------------------------------------------------- */
/* Events */

static void poll_again(struct server *s, enum event event)
{
	struct io_uring_sqe *sqe = get_sqe(s);

	io_uring_prep_poll_multishot(sqe, s->polled[event], POLLIN);
	io_uring_sqe_set_data64(sqe, event);
}

static void on_write(struct server *s, const struct ibv_wc *wc)
{
	s->writes--;
	if (wc->status == IBV_WC_SUCCESS) {
		s->sent++;
		return;
	}
	fprintf(stderr, "uring-loop: write: %s\n", ibv_wc_status_str(wc->status));
	stop_with(s, -EIO);
}

static void on_channel(struct server *s)
{
	struct ibv_wc wc[DEPTH];
	struct ibv_cq *cq;
	void *cq_userdata;
	int n;

	/* A poll may tell of one event twice; the channel does not block. */
	while (!ibv_get_cq_event(s->channel, &cq, &cq_userdata))
		ibv_ack_cq_events(cq, 1);
	if (ibv_req_notify_cq(s->cq, 0))
		stop_with(s, fail("ibv_req_notify_cq", -EIO));
	while ((n = ibv_poll_cq(s->cq, DEPTH, wc)) > 0) {
		for (int i = 0; i < n; i++)
			on_write(s, &wc[i]);
	}
	/* The answer to on_mr_drain(); too late (-ETIMEDOUT) is told to on_mr_release(). */
	if (s->draining && !s->writes) {
		s->draining = false;
		(void)daxlease_mr_drained(s->mr);
	}
}

static void on_event(struct server *s, enum event event, const struct io_uring_cqe *cqe)
{
	if (cqe->res < 0)
		stop_with(s, fail("poll", cqe->res));
	else if (event == LEASES && daxlease_ctx_dispatch(s->ctx) < 0)
		stop_with(s, fail("daxlease_ctx_dispatch", -EIO));
	else if (event == WRITES)
		on_channel(s);
	else if (event == SIGNALS)
		s->stop = true;
	if (!(cqe->flags & IORING_CQE_F_MORE) && !s->stop)
		poll_again(s, event);
}

static void on_cqe(struct server *s, const struct io_uring_cqe *cqe)
{
	if (daxlease_is_cqe(cqe->user_data))
		(void)daxlease_ring_cqe(s->leases, cqe->user_data);
	else if (cqe->user_data < EVENTS)
		on_event(s, (enum event)cqe->user_data, cqe);
	else
		on_copied(s, cqe->user_data - EVENTS, cqe->res);
}

static int run(struct server *s)
{
	struct io_uring_cqe *cqe;
	int err;

	for (enum event e = 0; e < EVENTS; e++)
		poll_again(s, e);
	/* To the end of what is under way, however it ends. */
	while (!s->stop || s->copies || s->writes) {
		copy_all(s);
		err = io_uring_submit_and_wait(&s->ring, 1);
		if (err < 0 && err != -EINTR)
			return fail("io_uring_submit_and_wait", err);
		while (!io_uring_peek_cqe(&s->ring, &cqe)) {
			struct io_uring_cqe got = *cqe;

			io_uring_cqe_seen(&s->ring, cqe);
			on_cqe(s, &got);
		}
		if (s->error && s->stop)
			break;
	}
	return s->error;
}

/* ------------------------------------------------------------------------- */
/* Setting up and tearing down; what is absent is NULL or -1. */

static int open_device(struct server *s, const char *name)
{
	struct ibv_device **list = ibv_get_device_list(NULL);

	if (!list)
		return fail("ibv_get_device_list (is ib_uverbs loaded?)", -errno);
	errno = ENODEV;
	for (int i = 0; list[i]; i++) {
		if (!strcmp(ibv_get_device_name(list[i]), name)) {
			s->device = ibv_open_device(list[i]);
			break;
		}
	}
	ibv_free_device_list(list);
	return s->device ? 0 : fail(name, -errno);
}

static int open_files(struct server *s, const char *source, const char *name)
{
	struct stat st;

	/* Around the page cache, if the filesystem has that. */
	s->source = open(source, O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (s->source < 0 && errno == EINVAL)
		s->source = open(source, O_RDONLY | O_CLOEXEC);
	if (s->source < 0 || fstat(s->source, &st))
		return fail(source, -errno);
	s->source_blocks = (size_t)st.st_size / BLOCK;
	s->fd = open(name, O_RDWR | O_CLOEXEC);
	if (s->fd < 0 || fstat(s->fd, &st))
		return fail(name, -errno);
	s->size = (size_t)st.st_size;
	if (!s->source_blocks || s->size < BLOCK) {
		fputs("uring-loop: SOURCE and FILE have to have a block of 4 KiB\n", stderr);
		return -EINVAL;
	}
	s->addr = mmap(NULL, s->size, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0);
	if (s->addr == MAP_FAILED) {
		s->addr = NULL;
		return fail("mmap", -errno);
	}
	return 0;
}

static struct ibv_qp *create_qp(struct server *s)
{
	struct ibv_qp_init_attr init = {
		.send_cq = s->cq,
		.recv_cq = s->cq,
		.cap = { .max_send_wr = DEPTH,
			 .max_recv_wr = 1,
			 .max_send_sge = 1,
			 .max_recv_sge = 1 },
		.qp_type = IBV_QPT_RC,
	};

	return ibv_create_qp(s->pd, &init);
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

static int open_queue_pairs(struct server *s, uint8_t gid_index)
{
	struct ibv_port_attr port;
	union ibv_gid gid;
	int err = 0;

	if (ibv_query_port(s->device, PORT, &port))
		return fail("ibv_query_port", -errno);
	if (ibv_query_gid(s->device, PORT, gid_index, &gid))
		return fail("ibv_query_gid", -errno);
	for (int i = 0; i < 2; i++) {
		s->qp[i] = create_qp(s);
		if (!s->qp[i])
			return fail("ibv_create_qp", -errno);
	}
	for (int i = 0; i < 2 && !err; i++)
		err = connect_qp(s->qp[i], s->qp[!i], &port, &gid, gid_index);
	return err ? fail("ibv_modify_qp", err) : 0;
}

static int open_verbs(struct server *s)
{
	s->pd = ibv_alloc_pd(s->device);
	if (!s->pd)
		return fail("ibv_alloc_pd", -errno);
	s->channel = ibv_create_comp_channel(s->device);
	if (!s->channel)
		return fail("ibv_create_comp_channel", -errno);
	if (fcntl(s->channel->fd, F_SETFL, O_NONBLOCK))
		return fail("fcntl", -errno);
	s->cq = ibv_create_cq(s->device, 2 * DEPTH, NULL, s->channel, 0);
	if (!s->cq)
		return fail("ibv_create_cq", -errno);
	if (ibv_req_notify_cq(s->cq, 0))
		return fail("ibv_req_notify_cq", -EIO);
	s->sink_mr =
		ibv_reg_mr(s->pd, s->sink, BLOCK, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
	return s->sink_mr ? 0 : fail("ibv_reg_mr", -errno);
}

static int open_ring(struct server *s)
{
	const struct daxlease_ctx_opts opts = {
		.size = sizeof(opts),
		.mode = DAXLEASE_MODE_LOOP,
		.log_fn = say,
		.log_level = DAXLEASE_LOG_INFO,
	};
	sigset_t mask;
	int err = daxlease_ctx_new(&opts, &s->ctx);

	if (err)
		return fail("daxlease_ctx_new", err);
	err = io_uring_queue_init(4 * DEPTH, &s->ring,
				  IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
	if (err)
		return fail("io_uring_queue_init", err);
	s->ring_open = true;
	err = io_uring_register_buffers_sparse(&s->ring, SLOT + 1);
	if (err)
		return fail("io_uring_register_buffers_sparse", err);
	err = daxlease_ring_new(s->ctx, s->ring.ring_fd, &s->leases);
	if (err)
		return fail("daxlease_ring_new", err);
	sigemptyset(&mask);
	sigaddset(&mask, SIGINT);
	sigaddset(&mask, SIGTERM);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	s->polled[LEASES] = daxlease_ctx_get_fd(s->ctx);
	s->polled[WRITES] = s->channel->fd;
	s->polled[SIGNALS] = signalfd(-1, &mask, SFD_CLOEXEC);
	return s->polled[SIGNALS] < 0 ? fail("signalfd", -errno) : 0;
}

static int open_buf(struct server *s)
{
	const struct daxlease_buf_opts opts = {
		.size = sizeof(opts),
		.flags = DAXLEASE_MR_REGAIN,
		.drain = on_buf_drain,
		.regain = on_buf_regain,
		.userdata = s,
	};
	int err = daxlease_reg_buf(s->leases, SLOT, s->fd, s->addr, s->size, &opts, &s->buf);

	if (err)
		return fail("daxlease_reg_buf", err);
	s->buf_blocks = s->size / BLOCK;
	return 0;
}

static int open_mr(struct server *s)
{
	const struct daxlease_mr_opts opts = {
		.size = sizeof(opts),
		.flags = DAXLEASE_MR_REGAIN,
		.drain = on_mr_drain,
		.release = on_mr_release,
		.regain = on_mr_regain,
		.userdata = s,
	};
	struct daxlease_mr_info info = { .size = sizeof(info) };
	int err = daxlease_reg_mr(s->ctx, s->pd, s->fd, s->addr, s->size, IBV_ACCESS_LOCAL_WRITE,
				  &opts, &s->mr);

	if (!err)
		err = daxlease_mr_add_qp(s->mr, s->qp[0]);
	if (!err)
		err = daxlease_mr_get_info(s->mr, &info);
	if (err)
		return fail("daxlease_reg_mr", err);
	s->lkey = info.lkey;
	s->mr_blocks = info.registered / BLOCK;
	printf("registered: %zu bytes\n", info.registered);
	return 0;
}

/* Requests may use it still, if the loop was left early. */
static int close_buf(struct server *s)
{
	int err = daxlease_dereg_buf(s->buf);

	while (err == -EBUSY) {
		struct io_uring_cqe *cqe;

		err = io_uring_wait_cqe(&s->ring, &cqe);
		if (err)
			break;
		if (daxlease_is_cqe(cqe->user_data))
			(void)daxlease_ring_cqe(s->leases, cqe->user_data);
		io_uring_cqe_seen(&s->ring, cqe);
		err = daxlease_dereg_buf(s->buf);
	}
	return err ? fail("daxlease_dereg_buf", err) : 0;
}

static int close_leases(struct server *s)
{
	int err = 0;

	for (int i = 0; i < 2; i++) {
		if (!s->qp[i])
			continue;
		if (s->mr)
			(void)daxlease_mr_remove_qp(s->mr, s->qp[i]);
		ibv_destroy_qp(s->qp[i]);
	}
	err = close_buf(s);
	if (!err)
		err = daxlease_dereg_mr(s->mr);
	if (!err)
		err = daxlease_ring_free(s->leases);
	if (!err)
		err = daxlease_ctx_free(s->ctx);
	return err;
}

static int close_all(struct server *s)
{
	int err = close_leases(s);

	if (err)
		return err;
	if (s->ring_open)
		io_uring_queue_exit(&s->ring);
	if (s->sink_mr)
		ibv_dereg_mr(s->sink_mr);
	if (s->cq)
		ibv_destroy_cq(s->cq);
	if (s->channel)
		ibv_destroy_comp_channel(s->channel);
	if (s->pd)
		ibv_dealloc_pd(s->pd);
	if (s->device)
		ibv_close_device(s->device);
	if (s->addr)
		munmap(s->addr, s->size);
	if (s->fd >= 0)
		close(s->fd);
	if (s->source >= 0)
		close(s->source);
	if (s->polled[SIGNALS] >= 0)
		close(s->polled[SIGNALS]);
	return 0;
}

int main(int argc, char **argv)
{
	struct server s = { .source = -1, .fd = -1, .polled = { -1, -1, -1 } };
	uint8_t gid_index;
	int err, close_err;

	if (argc != 4 && argc != 5) {
		fputs("usage: uring-loop SOURCE FILE DEVICE [GID-INDEX]\n", stderr);
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	gid_index = (uint8_t)(argc == 5 ? atoi(argv[4]) : 0);

	err = open_files(&s, argv[1], argv[2]);
	if (!err)
		err = open_device(&s, argv[3]);
	if (!err)
		err = open_verbs(&s);
	if (!err)
		err = open_queue_pairs(&s, gid_index);
	if (!err)
		err = open_ring(&s);
	if (!err)
		err = open_buf(&s);
	if (!err)
		err = open_mr(&s);
	if (!err) {
		err = run(&s);
		printf("%lu blocks copied, %lu sent\n", s.copied, s.sent);
	}
	close_err = close_all(&s);
	return err || close_err ? 1 : 0;
}
