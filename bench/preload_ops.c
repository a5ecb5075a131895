// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * daxlease-bench-preload: how many instructions calls take that the preload shim hooks, on
 * memory that is none of its business, and posting and polling, which it does not touch. It
 * compares nothing: bench/preload runs it with the shim and without.
 *
 *   daxlease-bench-preload FILE, a file of a page or more that is not on FS-DAX
 *
 * The time stamp counter has to count instructions, as scripts/vm --count-instructions makes it.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <x86intrin.h>

#include <infiniband/verbs.h>

#define PAGE 4096u
#define MUCH (1u << 20)
#define ROUNDS 200
#define ACCESS (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE)

static int fd;
static char *memory;
static struct ibv_pd *pd;
static struct ibv_cq *cq;
static struct ibv_qp *qp; /* connected to itself */
static struct ibv_mr *mr;

static void must(int ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "daxlease-bench-preload: %s: %s\n", what, strerror(errno));
	exit(2);
}

/* ------------------------------------------------------------------------- */
/* The operations */

static void map_file(void)
{
	void *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	must(p != MAP_FAILED && !munmap(p, PAGE), "mmap of the file");
}

static void map_memory(void)
{
	void *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	must(p != MAP_FAILED && !munmap(p, PAGE), "mmap of memory");
}

static void reg(size_t length)
{
	struct ibv_mr *new_mr = ibv_reg_mr(pd, memory, length, ACCESS);

	must(new_mr && !ibv_dereg_mr(new_mr), "ibv_reg_mr");
}

static void reg_page(void)
{
	reg(PAGE);
}

static void reg_much(void)
{
	reg(MUCH);
}

/*
 * Sending is of no use here: soft-RoCE ends it with a system call that now and then does more. The
 * others are in user space from begin to end.
 */
static void post_receive(void)
{
	struct ibv_sge sge = { .addr = (uintptr_t)memory, .length = 8, .lkey = mr->lkey };
	struct ibv_recv_wr wr = { .sg_list = &sge, .num_sge = 1 }, *bad;

	must(!ibv_post_recv(qp, &wr, &bad), "ibv_post_recv");
}

static void send_one(void)
{
	struct ibv_sge sge = { .addr = (uintptr_t)memory + PAGE, .length = 8, .lkey = mr->lkey };
	struct ibv_send_wr wr = { .sg_list = &sge, .num_sge = 1, .opcode = IBV_WR_SEND }, *bad;

	must(!ibv_post_send(qp, &wr, &bad), "ibv_post_send");
	usleep(3000);
}

static void poll_empty(void)
{
	struct ibv_wc wc;

	must(ibv_poll_cq(cq, 1, &wc) == 0, "ibv_poll_cq");
}

static void poll_one(void)
{
	struct ibv_wc wc;

	must(ibv_poll_cq(cq, 1, &wc) == 1 && !wc.status, "ibv_poll_cq of a completion");
}

/* Not measured: that there is something to poll, and nothing left. */
static void receive_one(void)
{
	post_receive();
	send_one();
}

static void send_and_poll(void)
{
	send_one();
	poll_one();
}

static const struct {
	const char *name;
	void (*before)(void), (*run)(void), (*after)(void);
} ops[] = {
	{ "mmap and munmap, a file", NULL, map_file, NULL },
	{ "mmap and munmap, memory", NULL, map_memory, NULL },
	{ "ibv_reg_mr and _dereg_mr, 4 KiB", NULL, reg_page, NULL },
	{ "ibv_reg_mr and _dereg_mr, 1 MiB", NULL, reg_much, NULL },
	{ "ibv_post_recv", NULL, post_receive, send_and_poll },
	{ "ibv_poll_cq, nothing", NULL, poll_empty, NULL },
	{ "ibv_poll_cq, a completion", receive_one, poll_one, NULL },
};

/* ------------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* The lowest is what the call takes; the median says how much the rest of the system adds. */
static void measure(unsigned int i)
{
	uint64_t n[ROUNDS];

	for (unsigned int r = 0; r < ROUNDS; r++) {
		if (ops[i].before)
			ops[i].before();
		n[r] = __rdtsc();
		ops[i].run();
		n[r] = __rdtsc() - n[r];
		if (ops[i].after)
			ops[i].after();
	}
	qsort(n, ROUNDS, sizeof(n[0]), compare);
	printf("%s\t%" PRIu64 "\t%" PRIu64 "\n", ops[i].name, n[0], n[ROUNDS / 2]);
}

static void open_device(void)
{
	struct ibv_device **list = ibv_get_device_list(NULL);
	struct ibv_context *context = list && *list ? ibv_open_device(*list) : NULL;

	must(context != NULL, "no RDMA device");
	pd = ibv_alloc_pd(context);
	cq = ibv_create_cq(context, 16, NULL, NULL, 0);
	must(pd && cq, "device");
}

static void modify(struct ibv_qp_attr attr, enum ibv_qp_state state, int mask)
{
	attr.qp_state = state;
	must(!ibv_modify_qp(qp, &attr, mask | IBV_QP_STATE), "ibv_modify_qp");
}

/* Index 1 is the IPv4 address of scripts/vm. */
static void connect_to_itself(void)
{
	struct ibv_qp_init_attr init = {
		.send_cq = cq,
		.recv_cq = cq,
		.cap = { .max_send_wr = 8, .max_recv_wr = 8, .max_send_sge = 1, .max_recv_sge = 1 },
		.qp_type = IBV_QPT_RC,
	};
	struct ibv_qp_attr attr = { .port_num = 1, .path_mtu = IBV_MTU_1024 };

	qp = ibv_create_qp(pd, &init);
	must(qp != NULL, "ibv_create_qp");
	attr.qp_access_flags = IBV_ACCESS_REMOTE_WRITE;
	attr.dest_qp_num = qp->qp_num;
	attr.max_dest_rd_atomic = attr.max_rd_atomic = 1;
	attr.min_rnr_timer = 12;
	attr.timeout = 14;
	attr.retry_cnt = 6;
	attr.ah_attr.port_num = 1;
	attr.ah_attr.is_global = 1;
	attr.ah_attr.grh.sgid_index = 1;
	attr.ah_attr.grh.hop_limit = 1;
	must(!ibv_query_gid(pd->context, 1, 1, &attr.ah_attr.grh.dgid), "ibv_query_gid");
	modify(attr, IBV_QPS_INIT, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
	modify(attr, IBV_QPS_RTR,
	       IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
		       IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
	modify(attr, IBV_QPS_RTS,
	       IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
		       IBV_QP_MAX_QP_RD_ATOMIC);
}

int main(int argc, char **argv)
{
	must(argc == 2, "usage: daxlease-bench-preload FILE");
	fd = open(argv[1], O_RDWR | O_CLOEXEC);
	must(fd >= 0, argv[1]);
	memory = mmap(NULL, MUCH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(memory != MAP_FAILED, "mmap");
	memset(memory, 1, MUCH);
	open_device();
	connect_to_itself();
	mr = ibv_reg_mr(pd, memory, 2 * PAGE, ACCESS);
	must(mr != NULL, "ibv_reg_mr");
	for (unsigned int i = 0; i < sizeof(ops) / sizeof(ops[0]); i++)
		measure(i);
	return 0;
}
