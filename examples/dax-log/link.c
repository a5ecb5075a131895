// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "link.h"
#include "util.h"

#define STEP_MS 10000 /* for each step of connecting */
#define TRIES 10      /* for an address, of a second each */

/* An event of the channel, copied: what it points to goes with its acknowledgement. */
struct answer {
	enum rdma_cm_event_type type;
	int status;
	union {
		struct welcome welcome;
		struct refused refused;
		uint32_t magic;
	} data;
};

static void take_event(struct rdma_cm_event *event, struct answer *answer)
{
	size_t length = event->param.conn.private_data_len;

	*answer = (struct answer){ .type = event->event, .status = event->status };
	if (event->event != RDMA_CM_EVENT_ESTABLISHED && event->event != RDMA_CM_EVENT_REJECTED)
		length = 0;
	if (length > sizeof(answer->data))
		length = sizeof(answer->data);
	if (length)
		memcpy(&answer->data, event->param.conn.private_data, length);
	rdma_ack_cm_event(event);
}

static int wait_event(struct link *link, struct answer *answer)
{
	struct pollfd fds[2] = {
		{ .fd = link->channel->fd, .events = POLLIN },
		{ .fd = link->signal_fd, .events = POLLIN },
	};
	uint64_t until = now_ns() + STEP_MS * NS_PER_MS;
	struct rdma_cm_event *event;

	while (!conn_next_event(link->channel, &event)) {
		if (now_ns() >= until)
			return -ETIMEDOUT;
		if (poll(fds, 2, ms_until(until)) < 0 && errno != EINTR)
			return -errno;
		if (fds[1].revents)
			return -EINTR;
	}
	take_event(event, answer);
	return 0;
}

/* Waits for one event; any other means that it did not work. */
static int expect(struct link *link, enum rdma_cm_event_type type, struct answer *answer)
{
	int err = wait_event(link, answer);

	if (err || answer->type == type)
		return err;
	if (answer->status < 0)
		return answer->status;
	return answer->type == RDMA_CM_EVENT_REJECTED ? -ECONNREFUSED : -EHOSTUNREACH;
}

/* ------------------------------------------------------------------------- */

/*
 * Several times: the kernel asks the network, and Linux 7.3 may miss that the answer came
 * until the time that it was given is over.
 */
static int resolve_address(struct link *link, struct sockaddr *address)
{
	struct answer answer;
	int err = -ETIMEDOUT;

	for (int i = 0; i < TRIES && err == -ETIMEDOUT; i++) {
		err = rdma_resolve_addr(link->cm_id, NULL, address, STEP_MS / TRIES) ? -errno : 0;
		if (!err)
			err = expect(link, RDMA_CM_EVENT_ADDR_RESOLVED, &answer);
	}
	return err;
}

static int resolve(struct link *link)
{
	struct rdma_addrinfo hints = { .ai_port_space = RDMA_PS_TCP }, *info;
	struct answer answer;
	char port[8];
	int err;

	snprintf(port, sizeof(port), "%u", link->port);
	if (rdma_getaddrinfo(link->host, port, &hints, &info))
		return errno ? -errno : -EHOSTUNREACH;
	err = resolve_address(link, info->ai_dst_addr);
	rdma_freeaddrinfo(info);
	if (!err)
		err = rdma_resolve_route(link->cm_id, STEP_MS) ? -errno : 0;
	return err ? err : expect(link, RDMA_CM_EVENT_ROUTE_RESOLVED, &answer);
}

static int make_cq(struct link *link)
{
	struct ibv_context *device = link->cm_id->verbs;

	link->pd = ibv_alloc_pd(device);
	if (!link->pd)
		return -errno;
	link->completions = ibv_create_comp_channel(device);
	if (!link->completions)
		return -errno;
	link->cq =
		ibv_create_cq(device, CONN_COMPLETIONS(link->writes), NULL, link->completions, 0);
	if (!link->cq)
		return -errno;
	if (ibv_req_notify_cq(link->cq, 0))
		return -EIO;
	return set_nonblocking(link->completions->fd);
}

static int make_conn(struct link *link)
{
	struct conn_setup setup = { .writes = link->writes, .peer = &link->peer };
	int err = make_cq(link);

	setup.pd = link->pd;
	setup.cq = link->cq;
	return err ? err : conn_open(&link->conn, link->cm_id, &setup);
}

static const char *refusal(const struct answer *answer)
{
	if (answer->type != RDMA_CM_EVENT_REJECTED)
		return "";
	if (answer->data.magic != MESSAGE_MAGIC)
		return " (no dax-log serve listens there)";
	switch (answer->data.refused.why) {
	case REFUSED_PROTOCOL:
		return " (the server is of another version)";
	case REFUSED_FULL:
		return " (it has as many clients as it has room for; see serve --clients)";
	default:
		return " (the server is about to end, or has no resources left)";
	}
}

static int greet(struct link *link, struct answer *answer)
{
	const struct hello hello = {
		.magic = MESSAGE_MAGIC,
		.protocol = PROTOCOL,
		.session = link->session,
		.id = link->id,
	};
	struct rdma_conn_param param = conn_param(&hello, sizeof(hello));
	int err = rdma_connect(link->cm_id, &param) ? -errno : 0;

	if (!err)
		err = expect(link, RDMA_CM_EVENT_ESTABLISHED, answer);
	if (!err && answer->data.magic != MESSAGE_MAGIC)
		err = -EPROTO;
	return err;
}

static int open_channel(struct link *link)
{
	link->channel = rdma_create_event_channel();
	if (!link->channel || rdma_create_id(link->channel, &link->cm_id, link, RDMA_PS_TCP))
		return -errno;
	return set_nonblocking(link->channel->fd);
}

int link_open(struct link *link, bool loud, struct welcome *ret_welcome)
{
	const char *what = "no RDMA event channel (modprobe rdma_ucm)";
	struct answer answer = { 0 };
	int err = open_channel(link);

	if (!err) {
		what = "cannot be reached by RDMA ('rdma link' shows which devices can)";
		err = resolve(link);
	}
	if (!err) {
		what = "no resources for the connection (is ulimit -l too low?)";
		err = make_conn(link);
	}
	if (!err) {
		what = "no connection";
		err = greet(link, &answer);
	}
	if (!err) {
		*ret_welcome = answer.data.welcome;
		return 0;
	}
	link_close(link);
	if (loud && err != -EINTR)
		fail(err, "%s port %u: %s%s", link->host, link->port, what, refusal(&answer));
	return err;
}

/* rdma_destroy_id() does not wait for the other side, which may be gone. */
void link_close(struct link *link)
{
	if (link->conn.id) {
		rdma_disconnect(link->cm_id);
		conn_close(&link->conn);
	}
	if (link->cq)
		ibv_destroy_cq(link->cq);
	if (link->completions)
		ibv_destroy_comp_channel(link->completions);
	if (link->pd)
		ibv_dealloc_pd(link->pd);
	if (link->cm_id)
		rdma_destroy_id(link->cm_id);
	if (link->channel)
		rdma_destroy_event_channel(link->channel);
	link->cq = NULL;
	link->completions = NULL;
	link->pd = NULL;
	link->cm_id = NULL;
	link->channel = NULL;
}

bool link_is_over(struct link *link)
{
	struct rdma_cm_event *event;
	struct answer answer;
	bool over = false;

	while (conn_next_event(link->channel, &event)) {
		take_event(event, &answer);
		over = over || answer.type == RDMA_CM_EVENT_DISCONNECTED ||
		       answer.type == RDMA_CM_EVENT_DEVICE_REMOVAL;
	}
	return over;
}
