/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What kind of file an open file is, and which one, for the collector `io`. */
#ifndef MOONSCOPE_IO_FILE_H
#define MOONSCOPE_IO_FILE_H

#include "file_path.h"

/* include/uapi/linux/stat.h */
#define S_IFMT 0170000
#define S_IFSOCK 0140000
#define S_IFREG 0100000
#define S_IFBLK 0060000
#define S_IFDIR 0040000
#define S_IFCHR 0020000
#define S_IFIFO 0010000

/* include/uapi/linux/magic.h: eventfd, timerfd, epoll, ...; regular files to the kernel since 6.16 */
#define ANON_INODE_FS_MAGIC 0x09041934

/* include/linux/socket.h, include/uapi/linux/in.h, include/uapi/linux/mptcp.h */
#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_UDPLITE 136
#define IPPROTO_MPTCP 262

/* Numbers of files are wanted (--paths). */
const volatile bool io_wants_paths;

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
} __attribute__((preserve_access_index));

struct file {
	struct path f_path;
	struct inode *f_inode;
	void *private_data;
} __attribute__((preserve_access_index));

struct sock_common {
	unsigned short skc_family;
} __attribute__((preserve_access_index));

struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol;
} __attribute__((preserve_access_index));

struct socket {
	struct sock *sk;
} __attribute__((preserve_access_index));

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
} __attribute__((preserve_access_index));

struct files_struct {
	struct fdtable *fdt;
} __attribute__((preserve_access_index));

struct task_struct___files {
	struct files_struct *files;
} __attribute__((preserve_access_index));

/* A socket file's private_data is its struct socket (sock_alloc_file, net/socket.c). */
static __always_inline __u32 kind_of_socket(struct file *file)
{
	struct socket *socket = BPF_CORE_READ(file, private_data);
	struct sock *sk = BPF_CORE_READ(socket, sk);
	__u32 family = BPF_CORE_READ(sk, __sk_common.skc_family);
	__u32 protocol;

	if (family == AF_UNIX)
		return MS_IO_UNIX;
	if (family != AF_INET && family != AF_INET6)
		return MS_IO_OTHER;
	protocol = BPF_CORE_READ(sk, sk_protocol);
	if (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP)
		return MS_IO_TCP;
	return protocol == IPPROTO_UDP || protocol == IPPROTO_UDPLITE ? MS_IO_UDP : MS_IO_OTHER;
}

/* Linux 6.2: makes an address one of that type, whose fields are read without the call of a helper. */
extern void *bpf_rdonly_cast(const void *address, __u32 type) __ksym __weak;

struct seen_inode {
	__u32 mode;
	__u64 magic;	/* of its file system */
};

static __always_inline void look_at_inode(struct file *file, struct seen_inode *to)
{
	struct inode *inode;

	if (bpf_ksym_exists(bpf_rdonly_cast)) {
		inode = ((struct file *)bpf_rdonly_cast(file, bpf_core_type_id_kernel(struct file)))->f_inode;
		to->mode = inode->i_mode;
		to->magic = inode->i_sb->s_magic;
		return;
	}
	inode = BPF_CORE_READ(file, f_inode);
	to->mode = BPF_CORE_READ(inode, i_mode);
	to->magic = BPF_CORE_READ(inode, i_sb, s_magic);
}

static __always_inline __u32 kind_of_file(struct file *file)
{
	struct seen_inode inode;

	if (!file)
		return MS_IO_UNKNOWN;
	look_at_inode(file, &inode);
	switch (inode.mode & S_IFMT) {
	case S_IFSOCK:
		return kind_of_socket(file);
	case S_IFREG:
		return inode.magic == ANON_INODE_FS_MAGIC ? MS_IO_OTHER : MS_IO_FILE;
	case S_IFDIR:
		return MS_IO_FILE;
	case S_IFIFO:
		return MS_IO_PIPE;
	case S_IFCHR:
	case S_IFBLK:
		return MS_IO_DEVICE;
	default:
		return MS_IO_OTHER;
	}
}

/* Where the running task keeps the file of this descriptor; NULL: it has none of that number. */
static __always_inline struct file **place_of_fd(__u32 fd)
{
	struct task_struct___files *task;
	struct fdtable *table;

	/* typed pointers are read without the call of a helper */
	if (bpf_core_enum_value_exists(enum bpf_func_id___probe, BPF_FUNC_get_current_task_btf___probe)) {
		task = (void *)bpf_get_current_task_btf();
		if (!task->files)
			return NULL;
		table = task->files->fdt;
		return table && fd < table->max_fds ? table->fd + fd : NULL;
	}
	task = (void *)bpf_get_current_task();
	table = BPF_CORE_READ(task, files, fdt);
	return fd < BPF_CORE_READ(table, max_fds) ? BPF_CORE_READ(table, fd) + fd : NULL;
}

enum with_number {
	WITHOUT_NUMBER,
	WITH_NUMBER,
};

/* What a tag says of a file: its kind, and its number if it has a path. */
static __always_inline __u32 tag_of_file(struct file *file, enum with_number with)
{
	__u32 kind = kind_of_file(file);
	__u32 number = 0;

	if (with == WITH_NUMBER && io_wants_paths && (kind == MS_IO_FILE || kind == MS_IO_DEVICE))
		number = file_number((__u64)BPF_CORE_READ(file, f_inode), (__u64)BPF_CORE_READ(file, f_path.dentry),
				     (__u64)mount_of(BPF_CORE_READ(file, f_path.mnt)));
	return kind << MS_IO_KIND_SHIFT | number << MS_IO_FILE_SHIFT;
}

/* Of a descriptor of the running task; NULL: it has none of that number. */
static __always_inline struct file *file_of_fd(__u32 fd)
{
	struct file **place = place_of_fd(fd);
	struct file *file = NULL;

	if (place)
		bpf_probe_read_kernel(&file, sizeof(file), place);
	return file;
}

/*
 * What a tag says of it without its number. Global: what comes out is any number to the
 * verifier, which would else follow a walk once for each kind of file.
 */
__attribute__((noinline)) __u32 kind_tag_of_fd(__u32 fd)
{
	return tag_of_file(file_of_fd(fd), WITHOUT_NUMBER);
}

static __always_inline __u32 tag_of_fd(__u32 fd, enum with_number with)
{
	return with == WITH_NUMBER ? tag_of_file(file_of_fd(fd), with) : kind_tag_of_fd(fd);
}

#endif /* MOONSCOPE_IO_FILE_H */
