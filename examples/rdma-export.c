/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * rdma-export FILE PORT: lets one client, rdma-import, write into a file. With librdmacm,
 * after the pattern of rdma_server(1).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <daxlease/rdmacm.h>
#include <rdma/rdma_cma.h>
#include <rdma/rdma_verbs.h>

#include "rdma-export.h"

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "rdma-export: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void *map_file(const char *path, size_t *ret_length, int *ret_fd)
{
	struct stat st;
	void *addr;

	*ret_fd = open(path, O_RDWR | O_CLOEXEC);
	if (*ret_fd < 0 || fstat(*ret_fd, &st))
		die(path);
	*ret_length = (size_t)st.st_size;
	addr = mmap(NULL, *ret_length, PROT_READ | PROT_WRITE, MAP_SHARED, *ret_fd, 0);
	if (addr == MAP_FAILED)
		die(path);
	return addr;
}

static struct rdma_cm_id *listen_on(const char *port)
{
	struct rdma_addrinfo hints = { .ai_flags = RAI_PASSIVE, .ai_port_space = RDMA_PS_TCP };
	struct ibv_qp_init_attr attr = {
		.cap = { .max_send_wr = 1, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1 },
	};
	struct rdma_cm_id *listener;
	struct rdma_addrinfo *info;

	if (rdma_getaddrinfo(NULL, port, &hints, &info))
		die("rdma_getaddrinfo");
	if (rdma_create_ep(&listener, info, NULL, &attr))
		die("rdma_create_ep");
	rdma_freeaddrinfo(info);
	if (rdma_listen(listener, 0))
		die("rdma_listen");
	return listener;
}

/* Until the client says that it is done, or the connection breaks. */
static int serve(struct rdma_cm_id *id, const struct export_info *info)
{
	struct rdma_conn_param param = { .private_data = info,
					 .private_data_len = sizeof(*info),
					 .responder_resources = 1 };
	char done[EXPORT_DONE_SIZE];
	struct ibv_mr *mr = rdma_reg_msgs(id, done, sizeof(done));
	struct ibv_wc wc = { 0 };

	if (!mr || rdma_post_recv(id, NULL, done, sizeof(done), mr))
		die("rdma_post_recv");
	if (rdma_accept(id, &param))
		die("rdma_accept");
	if (rdma_get_recv_comp(id, &wc) < 0)
		die("rdma_get_recv_comp");
	printf("rdma-export: %s\n", wc.status ? "broken off" : "the client is done");
	rdma_disconnect(id);
	rdma_dereg_mr(mr);
	return wc.status != IBV_WC_SUCCESS;
}

int main(int argc, char **argv)
{
	struct export_info info = { 0 };
	struct rdma_cm_id *listener, *id;
	struct daxlease_mr_info region = { .size = sizeof(region) };
	struct daxlease_ctx *ctx;
	struct daxlease_mr *mr;
	size_t length;
	void *addr;
	int fd, status;

	if (argc != 3) {
		fprintf(stderr, "usage: rdma-export FILE PORT\n");
		return 2;
	}
	addr = map_file(argv[1], &length, &fd);
	listener = listen_on(argv[2]);
	if (rdma_get_request(listener, &id))
		die("rdma_get_request");
	if (daxlease_ctx_new(NULL, &ctx) ||
	    daxlease_reg_write(ctx, id, fd, addr, length, NULL, &mr) ||
	    daxlease_mr_get_info(mr, &region))
		die("registering the file");
	info.addr = (uintptr_t)addr;
	info.length = length;
	info.rkey = region.rkey;
	status = serve(id, &info);
	daxlease_dereg_mr(mr);
	rdma_destroy_ep(id);
	rdma_destroy_ep(listener);
	return status;
}
