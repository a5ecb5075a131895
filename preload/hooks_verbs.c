// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The verbs that the program, librdmacm, providers and libdaxlease itself call. */
#include <errno.h>

#include "devices.h"
#include "qps.h"
#include "region.h"
#include "shim.h"

struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *addr, size_t length, int access)
{
	struct reg r = { .how = REG_MR,
			 .pd = pd,
			 .addr = addr,
			 .length = length,
			 .access = (unsigned int)access };

	return region_reg(&r);
}

struct ibv_mr *ibv_reg_mr_iova(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova,
			       int access)
{
	struct reg r = { .how = REG_IOVA,
			 .pd = pd,
			 .addr = addr,
			 .length = length,
			 .iova = iova,
			 .access = (unsigned int)access };

	return region_reg(&r);
}

struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova,
				unsigned int access)
{
	struct reg r;

	/* libibverbs itself, for nearly every registration: nothing is to be added to that. */
	if (here.inside && REAL(ibv_reg_mr_iova2))
		return REAL(ibv_reg_mr_iova2)(pd, addr, length, iova, access);
	r = (struct reg){ .how = REG_IOVA2,
			  .pd = pd,
			  .addr = addr,
			  .length = length,
			  .iova = iova,
			  .access = access };
	return region_reg(&r);
}

struct ibv_mr *ibv_reg_mr_ex(struct ibv_pd *pd, struct real_mr_init_attr *attr)
{
	struct reg r = { .how = REG_EX, .pd = pd, .attr = attr, .length = attr->length };

	r.access = (unsigned int)attr->access;
	if (attr->comp_mask & REAL_MR_ADDR)
		r.addr = attr->addr;
	r.iova = attr->comp_mask & REAL_MR_IOVA ? attr->iova : (uintptr_t)r.addr;
	return region_reg(&r);
}

/* Device memory, or that of another driver: never FS-DAX. But it gets a key. */
struct ibv_mr *ibv_reg_dmabuf_mr(struct ibv_pd *pd, uint64_t offset, size_t length, uint64_t iova,
				 int fd, int access)
{
	struct reg r = { .how = REG_DMABUF,
			 .pd = pd,
			 .offset = offset,
			 .length = length,
			 .iova = iova,
			 .fd = fd,
			 .access = (unsigned int)access };

	return region_reg(&r);
}

int ibv_rereg_mr(struct ibv_mr *mr, int flags, struct ibv_pd *pd, void *addr, size_t length,
		 int access)
{
	return region_rereg(mr, flags, pd, addr, length, access);
}

int ibv_dereg_mr(struct ibv_mr *mr)
{
	return region_dereg(mr);
}

/* For programs that have ibv_dereg_mr() from dlsym(3): a shadow must not get through. */
int ibv_cmd_dereg_mr(struct ibv_mr *mr)
{
	int ret;

	if (!here.inside && region_dereg_by_provider(mr, &ret))
		return ret;
	return REAL(ibv_cmd_dereg_mr) ? REAL(ibv_cmd_dereg_mr)(mr) : ENOSYS;
}

int ibv_dontfork_range(void *base, size_t size)
{
	if (!here.inside)
		region_check_unseen(base, size);
	return REAL(ibv_dontfork_range) ? REAL(ibv_dontfork_range)(base, size) : 0;
}

/* ------------------------------------------------------------------------- */

struct ibv_context *ibv_open_device(struct ibv_device *device)
{
	struct ibv_context *context = NULL;

	if (REAL(ibv_open_device))
		context = REAL(ibv_open_device)(device);
	else
		errno = ENOSYS;
	if (context && shim_on())
		devices_watch(context);
	return context;
}

struct ibv_context *ibv_import_device(int cmd_fd)
{
	struct ibv_context *context = NULL;

	if (REAL(ibv_import_device))
		context = REAL(ibv_import_device)(cmd_fd);
	else
		errno = ENOSYS;
	if (context && shim_on())
		devices_watch(context);
	return context;
}

int ibv_close_device(struct ibv_context *context)
{
	region_close_device(context);
	qps_forget(context);
	devices_forget(context);
	return REAL(ibv_close_device) ? REAL(ibv_close_device)(context) : -1;
}

struct ibv_qp *ibv_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *qp_init_attr)
{
	struct ibv_qp *qp = NULL;

	if (REAL(ibv_create_qp))
		qp = REAL(ibv_create_qp)(pd, qp_init_attr);
	else
		errno = ENOSYS;
	if (qp && shim_on())
		qps_add(qp);
	return qp;
}

int ibv_destroy_qp(struct ibv_qp *qp)
{
	int ret;

	/* Before, for its memory may be that of a new one as soon as it is gone. */
	qps_remove(qp);
	ret = REAL(ibv_destroy_qp) ? REAL(ibv_destroy_qp)(qp) : ENOSYS;
	if (ret && shim_on())
		qps_add(qp);
	return ret;
}
