/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * rdma-import HOST PORT TEXT: writes TEXT to the beginning of the file that rdma-export
 * has at HOST, again and again with an optional number of TIMES, 100 ms apart.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <rdma/rdma_cma.h>
#include <rdma/rdma_verbs.h>

#include "rdma-export.h"

/* A whole page: see LIMITS of soft-RoCE in daxlease(7). */
#define PAGE 4096

static char page[PAGE];

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "rdma-import: %s: %s\n", what, strerror(errno));
	exit(1);
}

static struct rdma_cm_id *connect_to(const char *host, const char *port)
{
	struct rdma_addrinfo hints = { .ai_port_space = RDMA_PS_TCP };
	struct ibv_qp_init_attr attr = {
		.cap = { .max_send_wr = 1, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1 },
		.sq_sig_all = 1,
	};
	struct rdma_conn_param param = { .initiator_depth = 1, .retry_count = 7 };
	struct rdma_addrinfo *info;
	struct rdma_cm_id *id;

	if (rdma_getaddrinfo(host, port, &hints, &info))
		die(host);
	if (rdma_create_ep(&id, info, NULL, &attr))
		die("rdma_create_ep");
	rdma_freeaddrinfo(info);
	if (rdma_connect(id, &param))
		die("rdma_connect");
	return id;
}

static void wait_sent(struct rdma_cm_id *id)
{
	struct ibv_wc wc;

	if (rdma_get_send_comp(id, &wc) < 0)
		die("rdma_get_send_comp");
	if (wc.status != IBV_WC_SUCCESS) {
		fprintf(stderr, "rdma-import: broken off: %s\n", ibv_wc_status_str(wc.status));
		exit(1);
	}
}

int main(int argc, char **argv)
{
	const struct export_info *info;
	struct rdma_cm_id *id;
	struct ibv_mr *mr;
	int times;

	if (argc < 4 || argc > 5) {
		fprintf(stderr, "usage: rdma-import HOST PORT TEXT [TIMES]\n");
		return 2;
	}
	id = connect_to(argv[1], argv[2]);
	if (id->event->param.conn.private_data_len < sizeof(*info)) {
		fprintf(stderr, "rdma-import: that is no rdma-export\n");
		return 1;
	}
	info = id->event->param.conn.private_data;
	snprintf(page, sizeof(page), "%s\n", argv[3]);
	mr = rdma_reg_msgs(id, page, sizeof(page));
	if (!mr)
		die("rdma_reg_msgs");
	for (times = argc == 5 ? atoi(argv[4]) : 1; times > 0; times--) {
		if (rdma_post_write(id, NULL, page, sizeof(page), mr, 0, info->addr, info->rkey))
			die("rdma_post_write");
		wait_sent(id);
		usleep(100000);
	}
	if (rdma_post_send(id, NULL, page, EXPORT_DONE_SIZE, mr, 0))
		die("rdma_post_send");
	wait_sent(id);
	rdma_disconnect(id);
	rdma_dereg_mr(mr);
	rdma_destroy_ep(id);
	return 0;
}
