// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "feature.h"

/* xfs_format.h: struct xfs_dsb */
#define MAGIC 0x58465342u /* "XFSB" */
#define SECTOR 512u	  /* of pmem, as mkfs.xfs takes it by default, or 4096 */
#define AT_SECTOR_SIZE 102
#define AT_INCOMPAT 216
#define AT_CRC 224
#define EXCHANGE_RANGE (1u << 6)

static uint32_t crc32c(const uint8_t *data, size_t size)
{
	uint32_t crc = UINT32_MAX;

	while (size--) {
		crc ^= *data++;
		for (int i = 0; i < 8; i++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
	}
	return ~crc;
}

static uint32_t read_be32(const uint8_t *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof(value));
	return be32toh(value);
}

static int change(uint8_t *sb, size_t room, bool on, size_t *ret_size)
{
	size_t size = (size_t)sb[AT_SECTOR_SIZE] << 8 | sb[AT_SECTOR_SIZE + 1];
	uint32_t features = read_be32(sb + AT_INCOMPAT), crc = 0;

	if (read_be32(sb) != MAGIC || size < SECTOR || size > room)
		return -EINVAL;
	features = htobe32(on ? features | EXCHANGE_RANGE : features & ~EXCHANGE_RANGE);
	memcpy(sb + AT_INCOMPAT, &features, sizeof(features));
	memcpy(sb + AT_CRC, &crc, sizeof(crc));
	crc = htole32(crc32c(sb, size));
	memcpy(sb + AT_CRC, &crc, sizeof(crc));
	*ret_size = size;
	return 0;
}

int xfs_set_exchange_range(const char *device, bool on)
{
	int fd = open(device, O_RDWR | O_CLOEXEC), err = -EIO;
	uint8_t sb[4096];
	size_t size;

	if (fd < 0)
		return -errno;
	if (pread(fd, sb, sizeof(sb), 0) == (ssize_t)sizeof(sb))
		err = change(sb, sizeof(sb), on, &size);
	if (!err && (pwrite(fd, sb, size, 0) != (ssize_t)size || fsync(fd)))
		err = -EIO;
	close(fd);
	return err;
}
