// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* libnl is what libibverbs itself is linked to, so this is no further dependency. */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <netlink/attr.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <rdma/rdma_netlink.h>

#include "resources.h"

#define MAX_DEVICES 64

struct device {
	uint32_t index;
	char name[64];
};

struct listing {
	struct device devices[MAX_DEVICES];
	size_t ndevices;
	const struct device *device; /* that is being listed */
	struct resource *list;
	size_t n;
	int err;
};

static int on_device(struct nl_msg *msg, void *arg)
{
	struct nlattr *attrs[RDMA_NLDEV_ATTR_MAX];
	struct listing *l = arg;
	struct device *d = &l->devices[l->ndevices];

	if (l->ndevices == MAX_DEVICES ||
	    nlmsg_parse(nlmsg_hdr(msg), 0, attrs, RDMA_NLDEV_ATTR_MAX - 1, NULL) < 0 ||
	    !attrs[RDMA_NLDEV_ATTR_DEV_INDEX] || !attrs[RDMA_NLDEV_ATTR_DEV_NAME])
		return NL_OK;
	d->index = nla_get_u32(attrs[RDMA_NLDEV_ATTR_DEV_INDEX]);
	snprintf(d->name, sizeof(d->name), "%s", nla_get_string(attrs[RDMA_NLDEV_ATTR_DEV_NAME]));
	l->ndevices++;
	return NL_OK;
}

static void add(struct listing *l, const struct resource *r)
{
	struct resource *list = l->list;

	if (!(l->n & (l->n - 1)))
		list = reallocarray(list, l->n ? 2 * l->n : 1, sizeof(*list));
	if (!list) {
		l->err = -ENOMEM;
		return;
	}
	l->list = list;
	list[l->n++] = *r;
}

static void add_entry(struct listing *l, struct nlattr *entry, bool mr)
{
	struct nlattr *attrs[RDMA_NLDEV_ATTR_MAX];
	struct resource r = { .kind = mr ? RESOURCE_MR : RESOURCE_QP };
	const struct nlattr *number;

	if (nla_parse_nested(attrs, RDMA_NLDEV_ATTR_MAX - 1, entry, NULL) < 0)
		return;
	number = attrs[mr ? RDMA_NLDEV_ATTR_RES_MRN : RDMA_NLDEV_ATTR_RES_LQPN];
	if (!attrs[RDMA_NLDEV_ATTR_RES_PID]) /* one of the kernel's own */
		return;
	r.pid = (pid_t)nla_get_u32(attrs[RDMA_NLDEV_ATTR_RES_PID]);
	r.number = number ? nla_get_u32(number) : 0;
	if (attrs[RDMA_NLDEV_ATTR_RES_MRLEN])
		r.length = nla_get_u64(attrs[RDMA_NLDEV_ATTR_RES_MRLEN]);
	if (attrs[RDMA_NLDEV_ATTR_RES_STATE])
		r.state = nla_get_u8(attrs[RDMA_NLDEV_ATTR_RES_STATE]);
	snprintf(r.device, sizeof(r.device), "%s", l->device->name);
	add(l, &r);
}

static int on_resources(struct nl_msg *msg, void *arg)
{
	static const int tables[] = { RDMA_NLDEV_ATTR_RES_MR, RDMA_NLDEV_ATTR_RES_QP };
	struct nlattr *attrs[RDMA_NLDEV_ATTR_MAX], *entry;
	struct listing *l = arg;
	int left;

	if (nlmsg_parse(nlmsg_hdr(msg), 0, attrs, RDMA_NLDEV_ATTR_MAX - 1, NULL) < 0)
		return NL_OK;
	for (int i = 0; i < 2; i++) {
		if (!attrs[tables[i]])
			continue;
		nla_for_each_nested(entry, attrs[tables[i]], left) add_entry(l, entry, i == 0);
	}
	return NL_OK;
}

static int dump(struct nl_sock *sock, int command, const struct device *device,
		int (*fn)(struct nl_msg *msg, void *arg), struct listing *l)
{
	struct nl_msg *msg = nlmsg_alloc_simple(RDMA_NL_GET_TYPE(RDMA_NL_NLDEV, command),
						NLM_F_REQUEST | NLM_F_ACK | NLM_F_DUMP);
	int err;

	if (!msg)
		return -ENOMEM;
	if (device && nla_put_u32(msg, RDMA_NLDEV_ATTR_DEV_INDEX, device->index) < 0) {
		nlmsg_free(msg);
		return -ENOMEM;
	}
	l->device = device;
	nl_socket_modify_cb(sock, NL_CB_VALID, NL_CB_CUSTOM, fn, l);
	err = nl_send_auto(sock, msg);
	nlmsg_free(msg);
	if (err >= 0)
		err = nl_recvmsgs_default(sock);
	return err < 0 ? -EOPNOTSUPP : l->err;
}

int resources_list(struct resource **ret_list, size_t *ret_n)
{
	struct nl_sock *sock = nl_socket_alloc();
	struct listing *l = calloc(1, sizeof(*l));
	int err = !sock || !l ? -ENOMEM : nl_connect(sock, NETLINK_RDMA) < 0 ? -EOPNOTSUPP : 0;

	if (!err)
		err = dump(sock, RDMA_NLDEV_CMD_GET, NULL, on_device, l);
	for (size_t i = 0; !err && i < l->ndevices; i++) {
		err = dump(sock, RDMA_NLDEV_CMD_RES_MR_GET, &l->devices[i], on_resources, l);
		if (!err)
			err = dump(sock, RDMA_NLDEV_CMD_RES_QP_GET, &l->devices[i], on_resources,
				   l);
	}
	if (err) {
		if (l)
			free(l->list);
	} else {
		*ret_list = l->list;
		*ret_n = l->n;
	}
	free(l);
	nl_socket_free(sock);
	return err;
}
