// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * A program that changes the file that it has registered itself:
 *
 *   preload-owner FILE WHAT
 *
 * Prints whether the registration has "ended" by it (its queue pair is in the error state) or
 * "stays". Either way it deregisters, and everything has to succeed.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <infiniband/verbs.h>

#define PAGE 4096
#define SIZE (16 * PAGE)

/* What fails is named, with errno. */
static void check(int ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	exit(1);
}

static int change(const char *what, const char *path, int fd)
{
	int other = 0;

	if (!strcmp(what, "ftruncate"))
		return ftruncate(fd, PAGE);
	if (!strcmp(what, "grow"))
		return ftruncate(fd, 2 * SIZE);
	if (!strcmp(what, "punch"))
		return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE);
	if (!strcmp(what, "truncate"))
		return truncate(path, PAGE);
	if (!strcmp(what, "open-trunc"))
		other = open(path, O_WRONLY | O_TRUNC);
	else if (!strcmp(what, "fopen-w"))
		return fopen(path, "w") ? 0 : -1;
	else if (!strcmp(what, "open-read"))
		other = open(path, O_RDONLY);
	else if (!strcmp(what, "open-write"))
		other = open(path, O_RDWR);
	else
		return -1;
	return other < 0 ? -1 : close(other);
}

static struct ibv_pd *open_device(void)
{
	struct ibv_device **list = ibv_get_device_list(NULL);
	struct ibv_context *context = list && *list ? ibv_open_device(*list) : NULL;

	check(context != NULL, "ibv_open_device");
	return ibv_alloc_pd(context);
}

static struct ibv_qp *make_qp(struct ibv_pd *pd)
{
	struct ibv_cq *cq = ibv_create_cq(pd->context, 4, NULL, NULL, 0);
	struct ibv_qp_init_attr init = {
		.send_cq = cq,
		.recv_cq = cq,
		.cap = { .max_send_wr = 1, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1 },
		.qp_type = IBV_QPT_RC,
	};

	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_INIT, .port_num = 1 };
	struct ibv_qp *qp = ibv_create_qp(pd, &init);

	check(qp != NULL, "ibv_create_qp");
	/* One that is fresh reaches nothing, and is left alone. */
	check(!ibv_modify_qp(qp, &attr,
			     IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS),
	      "ibv_modify_qp");
	return qp;
}

static int is_in_error(struct ibv_qp *qp)
{
	struct ibv_qp_init_attr init;
	struct ibv_qp_attr attr;

	check(!ibv_query_qp(qp, &attr, IBV_QP_STATE, &init), "ibv_query_qp");
	return attr.qp_state == IBV_QPS_ERR;
}

int main(int argc, char **argv)
{
	struct ibv_pd *pd = open_device();
	struct ibv_qp *qp = pd ? make_qp(pd) : NULL;
	struct ibv_mr *mr;
	void *map;
	int fd;

	check(argc == 3 && qp, "arguments, or a domain");
	fd = open(argv[1], O_RDWR | O_CLOEXEC);
	check(fd >= 0, argv[1]);
	map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	check(map != MAP_FAILED, "mmap");
	mr = ibv_reg_mr(pd, map, SIZE, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
	check(mr != NULL, "ibv_reg_mr");
	check(!change(argv[2], argv[1], fd), argv[2]);
	puts(is_in_error(qp) ? "ended" : "stays");
	check(!ibv_dereg_mr(mr), "ibv_dereg_mr");
	check(!ibv_destroy_qp(qp), "ibv_destroy_qp");
	return 0;
}
