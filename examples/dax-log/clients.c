// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "clients.h"
#include "util.h"

static uint32_t id_of(const struct clients *clients, const struct client *client)
{
	return (uint32_t)(client - clients->client);
}

/* rdma_destroy_id() does not wait for the other side, which may be gone. */
static void disconnect(struct clients *clients, struct client *client, const char *why)
{
	struct rdma_cm_id *id = client->conn.id;

	if (!id)
		return;
	if (client->established) {
		clients->connected--;
		say("client %u is disconnected: %s", id_of(clients, client), why);
	}
	client->established = false;
	/* The peer is freed before the queue pair leaves the state that it is used in. */
	(void)daxlease_peer_free(client->conn.peer);
	client->conn.peer = NULL;
	rdma_disconnect(id);
	conn_close(&client->conn);
	rdma_destroy_id(id);
}

static void drop(struct clients *clients, struct client *client, const char *why)
{
	clients->disconnects += client->established;
	disconnect(clients, client, why);
}

/* ------------------------------------------------------------------------- */
/* Coming */

static struct client *with_session(struct clients *clients, uint64_t session)
{
	for (uint32_t id = 0; id < clients->store->layout.stride; id++) {
		if (clients->client[id].owner.session == session)
			return &clients->client[id];
	}
	return NULL;
}

/* The one that fewest records were written to. */
static struct client *least_used(struct clients *clients)
{
	struct client *least = NULL;

	for (uint32_t id = 0; id < clients->store->layout.stride; id++) {
		struct client *client = &clients->client[id];

		if (!client->conn.id && (!least || client->owner.last < least->owner.last))
			least = client;
	}
	return least;
}

/*
 * The same session as before gets its old slots. After the server was started again it
 * knows only of those that have a record in the file.
 */
static struct client *choose(struct clients *clients, const struct hello *hello)
{
	struct client *client = with_session(clients, hello->session);

	if (client)
		return client;
	if (hello->id < clients->store->layout.stride) {
		client = &clients->client[hello->id];
		if (!client->conn.id && !client->owner.session)
			return client;
	}
	return least_used(clients);
}

static int accept_client(struct clients *clients, struct client *client, struct rdma_cm_id *id)
{
	const struct layout *layout = &clients->store->layout;
	struct welcome welcome = {
		.magic = MESSAGE_MAGIC,
		.id = id_of(clients, client),
		.stride = layout->stride,
		.record_size = layout->record_size,
		.file_size = clients->store->size,
		.next = client->owner.last + 1,
	};
	struct daxlease_peer_opts peer = { .size = sizeof(peer), .userdata = client };
	struct conn_setup setup = {
		.ctx = clients->ctx,
		.pd = clients->pd,
		.cq = clients->cq,
		.peer = &peer,
	};
	struct rdma_conn_param param = conn_param(&welcome, sizeof(welcome));
	int err = conn_open(&client->conn, id, &setup);

	if (err)
		return err;
	client->late = false;
	id->context = client;
	if (rdma_accept(id, &param)) {
		err = fail(-errno, "rdma_accept");
		conn_close(&client->conn);
	}
	return err;
}

static void reject(struct rdma_cm_id *id, enum refusal why)
{
	struct refused refused = { .magic = MESSAGE_MAGIC, .why = why };

	rdma_reject(id, &refused, sizeof(refused));
	rdma_destroy_id(id);
}

static void requested(struct clients *clients, struct rdma_cm_id *id, const struct hello *hello)
{
	struct client *client;

	if (hello->magic != MESSAGE_MAGIC || hello->protocol != PROTOCOL || !hello->session) {
		reject(id, REFUSED_PROTOCOL);
		return;
	}
	client = choose(clients, hello);
	if (clients->closing || id->verbs != clients->device) {
		reject(id, REFUSED_BUSY);
		return;
	}
	if (!client) {
		reject(id, REFUSED_FULL);
		return;
	}
	drop(clients, client, "it connects again");
	if (accept_client(clients, client, id)) {
		reject(id, REFUSED_BUSY);
		return;
	}
	client->owner.session = hello->session;
}

static void established(struct clients *clients, struct client *client)
{
	int err = daxlease_offer_add(clients->offer, client->conn.peer, clients->access);

	client->established = true;
	clients->connected++;
	if (err) {
		fail(err, "client %u: cannot offer it the log", id_of(clients, client));
		drop(clients, client, "no offer");
	}
}

/* ------------------------------------------------------------------------- */
/* Events */

/* The struct is gone once the event is acknowledged, and the id needs that to be freed. */
void clients_event(struct clients *clients, struct rdma_cm_event *event)
{
	struct rdma_cm_id *id = event->id;
	struct client *client = id->context;
	enum rdma_cm_event_type type = event->event;
	struct hello hello = { 0 };

	if (type == RDMA_CM_EVENT_CONNECT_REQUEST && event->param.conn.private_data &&
	    event->param.conn.private_data_len >= sizeof(hello))
		memcpy(&hello, event->param.conn.private_data, sizeof(hello));
	rdma_ack_cm_event(event);
	switch (type) {
	case RDMA_CM_EVENT_CONNECT_REQUEST:
		requested(clients, id, &hello);
		break;
	case RDMA_CM_EVENT_ESTABLISHED:
		established(clients, client);
		break;
	case RDMA_CM_EVENT_DISCONNECTED:
		disconnect(clients, client, "it left");
		break;
	case RDMA_CM_EVENT_CONNECT_ERROR:
	case RDMA_CM_EVENT_UNREACHABLE:
	case RDMA_CM_EVENT_REJECTED:
		drop(clients, client, rdma_event_str(type));
		break;
	default:
		break;
	}
}

static struct client *find(struct clients *clients, uint32_t qp_num)
{
	for (uint32_t id = 0; id < clients->store->layout.stride; id++) {
		struct client *client = &clients->client[id];

		if (client->conn.id && client->conn.id->qp->qp_num == qp_num)
			return client;
	}
	return NULL;
}

static int flush(struct clients *clients, struct client *client, const struct message *msg)
{
	struct message answer = {
		.magic = MESSAGE_MAGIC,
		.type = MESSAGE_FLUSHED,
		.first = msg->first,
		.count = msg->count,
		.status = FLUSH_BAD,
	};
	int number = conn_unused(&client->conn);

	if (number < 0) /* more requests than it may have outstanding */
		return number;
	if (msg->count <= clients->store->layout.ring)
		answer.status = store_flush(clients->store, client->owner.session,
					    id_of(clients, client), msg, &answer.time_ns);
	if (answer.status == FLUSH_DONE && msg->first + msg->count - 1 > client->owner.last)
		client->owner.last = msg->first + msg->count - 1;
	return conn_send(&client->conn, (unsigned int)number, &answer);
}

void clients_completed(struct clients *clients, const struct ibv_wc *wc)
{
	struct client *client = find(clients, wc->qp_num);
	struct message msg;

	if (!client) /* the last ones of somebody who is gone */
		return;
	switch (conn_completed(&client->conn, wc, &msg)) {
	case CONN_NOTHING:
		break;
	case CONN_MESSAGE:
		if (msg.type != MESSAGE_FLUSH || flush(clients, client, &msg))
			drop(clients, client, "it broke the protocol");
		break;
	case CONN_BROKEN:
		drop(clients, client, ibv_wc_status_str(wc->status));
		break;
	}
}

/* ------------------------------------------------------------------------- */
/* Going */

void clients_late(struct daxlease_peer *peer, enum daxlease_late how)
{
	struct client *client = daxlease_peer_get_userdata(peer);

	/* One whose window was taken is connected still, and may come to its senses. */
	if (how == DAXLEASE_LATE_FENCED)
		client->late = true;
}

void clients_close_late(struct clients *clients)
{
	for (uint32_t id = 0; id < clients->store->layout.stride; id++) {
		if (clients->client[id].late)
			drop(clients, &clients->client[id], "it did not answer in time");
	}
}

void clients_close_all(struct clients *clients)
{
	for (uint32_t id = 0; id < clients->store->layout.stride; id++)
		disconnect(clients, &clients->client[id], "the server ends");
}
