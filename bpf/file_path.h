/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Files by number, so that a tag can say which one: a number is given to a file when it is
 * first met, and its path is shipped once, as names, leaf first. Whoever ships it runs in a
 * task, not in an interrupt.
 *
 * The path is the one at that moment, from the root of the mount namespace (of a file that
 * only its inode is known of, from the root of its file system).
 */
#ifndef MOONSCOPE_FILE_PATH_H
#define MOONSCOPE_FILE_PATH_H

#include "scratch.h"

struct qstr {
	__u64 hash_len;		/* of the name and of the address of the parent (hash_name, fs/namei.c) */
	const unsigned char *name;
} __attribute__((preserve_access_index));

struct hlist_bl_node {
	void **pprev;
} __attribute__((preserve_access_index));

struct hlist_node {
	struct hlist_node *next;
} __attribute__((preserve_access_index));

struct hlist_head {
	struct hlist_node *first;
} __attribute__((preserve_access_index));

struct super_block {
	__u32 s_dev;
	unsigned long s_magic;
} __attribute__((preserve_access_index));

struct inode {
	unsigned short i_mode;
	struct super_block *i_sb;
	unsigned long i_ino;
	__u32 i_generation;
	struct hlist_head i_dentry;
} __attribute__((preserve_access_index));

struct dentry {
	struct hlist_bl_node d_hash;
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
	union {
		struct hlist_node d_alias;
	} d_u;
} __attribute__((preserve_access_index));

/* Since 7.x the union has no name. */
struct dentry___flat {
	struct hlist_node d_alias;
} __attribute__((preserve_access_index));

struct vfsmount {
	struct dentry *mnt_root;
} __attribute__((preserve_access_index));

struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
} __attribute__((preserve_access_index));

/* Which file; another one may have its inode's number later, or its name. */
struct file_key {
	__u64 inode;
	__u64 name;
	__u32 device;
	__u32 generation;
};

/* Their numbers, from 1 on. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct file_key);
	__type(value, __u32);
} file_numbers SEC(".maps");

/* How many numbers this CPU has given away. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} files_of_cpu SEC(".maps");

/* Files that have no number: there was no room. */
__u32 files_without_number SEC(".bss.files");

/* What a path is put together and shipped in, over the words of a scratch. */
struct path_record {
	/* where the walk is; not shipped */
	struct dentry *dentry;
	struct mount *mount;
	struct ms_file_event head;
	char names[MS_PATH_BYTES + MS_NAME_BYTES + 8];
};

static __always_inline struct path_record *path_of_scratch(__u32 index)
{
	struct scratch *s = bpf_map_lookup_elem(&scratches, &index);

	return s ? (void *)s->words : NULL;
}

/*
 * One name more, or one mount up; not 0: that was all. Global, and what it remembers is in
 * memory: it is verified once, and not for each way through a path.
 */
__attribute__((noinline)) int path_step(__u32 index)
{
	struct path_record *to = path_of_scratch(index);
	struct dentry *dentry, *parent;
	struct mount *mount, *above;
	__u32 at;
	long len;

	if (!to)
		return 1;
	dentry = to->dentry;
	mount = to->mount;
	parent = BPF_CORE_READ(dentry, d_parent);
	if (dentry == parent || (mount && dentry == BPF_CORE_READ(mount, mnt.mnt_root))) {
		above = mount ? BPF_CORE_READ(mount, mnt_parent) : NULL;
		if (!above || above == mount) {
			to->head.flags &= ~MS_FILE_CUT;
			return 1;
		}
		to->dentry = BPF_CORE_READ(mount, mnt_mountpoint);
		to->mount = above;
		return 0;
	}
	at = to->head.len;
	if (at > MS_PATH_BYTES - 1)
		return 1;
	len = bpf_probe_read_kernel_str(&to->names[at & (MS_PATH_BYTES - 1)], MS_NAME_BYTES,
					BPF_CORE_READ(dentry, d_name.name));
	if (len <= 0)
		return 1;
	to->head.len = at + len;
	to->dentry = parent;
	return 0;
}

/* Ships the path of a file; false: there was no room, now. */
static __always_inline bool ship_path(struct scratch *s, const struct file_key *key, __u32 number,
				      struct dentry *dentry, struct mount *mount)
{
	struct path_record *record = (void *)s->words;
	__u32 index = s->index;
	__u64 len;

	record->dentry = dentry;
	record->mount = mount;
	record->head.kind = MS_EVENT_FILE;
	record->head.number = number;
	record->head.time = bpf_ktime_get_ns();
	record->head.inode = key->inode;
	record->head.device = key->device;
	record->head.len = 0;
	record->head.flags = MS_FILE_CUT;
	record->head.from_root = mount != NULL;
	for (int i = 0; dentry && i < MS_PATH_NAMES; i++)
		if (path_step(index))
			break;
	/* d_unhashed(): it has been removed; roots are in no list */
	if (record->head.len && !BPF_CORE_READ(dentry, d_hash.pprev))
		record->head.flags |= MS_FILE_DELETED;
	/* a record is taken apart as words */
	len = (sizeof(record->head) + record->head.len + 7) & ~7ULL;
	if (len > sizeof(record->head) + sizeof(record->names))
		len = sizeof(record->head) + sizeof(record->names);
	return !bpf_ringbuf_output(&events, &record->head, len, BPF_RB_NO_WAKEUP);
}

/* A number that no other file has; 0: there are none left. For whoever has the scratch of this CPU. */
static __always_inline __u32 next_file_number(void)
{
	__u32 zero = 0;
	__u32 *given = bpf_map_lookup_elem(&files_of_cpu, &zero);
	__u64 number;

	if (!given)
		return 0;
	number = *given * (ms_cpus_mask + 1) + bpf_get_smp_processor_id() + 1;
	if (number > MS_MAX_FILE)
		return 0;
	*given += 1;
	return number;
}

static __always_inline __u32 give_file_number(struct scratch *s, const struct file_key *key, struct dentry *dentry,
					      struct mount *mount)
{
	__u32 number = next_file_number();
	__u32 *other;

	if (!number || bpf_map_update_elem(&file_numbers, key, &number, BPF_NOEXIST)) {
		/* another CPU may have been faster; else it is full */
		other = bpf_map_lookup_elem(&file_numbers, key);
		if (other)
			return *other;
		files_without_number = 1;
		return 0;
	}
	if (ship_path(s, key, number, dentry, mount))
		return number;
	/* the next time, perhaps */
	bpf_map_delete_elem(&file_numbers, key);
	return 0;
}

static __always_inline __u32 new_file_number(const struct file_key *key, struct dentry *dentry, struct mount *mount)
{
	struct scratch *s = try_scratch(SCRATCH_TASK);
	__u32 number;

	/* the next time, perhaps */
	if (!s)
		return 0;
	number = give_file_number(s, key, dentry, mount);
	give_back(s);
	return number;
}

/*
 * The number of a file, of which its inode is known, and, as far as they are, its entry in a
 * directory and the mount that it was found through; 0: it has none. Global: it is verified
 * once by itself.
 */
__attribute__((noinline)) __u32 file_number(__u64 inode_at, __u64 dentry_at, __u64 mount_at)
{
	struct inode *inode = (void *)inode_at;
	struct dentry *dentry = (void *)dentry_at;
	struct file_key key = {};
	__u32 *known;

	key.inode = BPF_CORE_READ(inode, i_ino);
	key.generation = BPF_CORE_READ(inode, i_generation);
	key.device = BPF_CORE_READ(inode, i_sb, s_dev);
	if (dentry)
		key.name = BPF_CORE_READ(dentry, d_name.hash_len);
	known = bpf_map_lookup_elem(&file_numbers, &key);
	return known ? *known : new_file_number(&key, dentry, (void *)mount_at);
}

/* The mount of struct path.mnt, which is a part of it. */
static __always_inline struct mount *mount_of(struct vfsmount *part)
{
	return part ? (void *)part - bpf_core_field_offset(struct mount, mnt) : NULL;
}

/* A name that an inode has; NULL: none is known. */
static __always_inline struct dentry *alias_of(struct inode *inode)
{
	struct hlist_node *first = BPF_CORE_READ(inode, i_dentry.first);

	if (!first)
		return NULL;
	if (bpf_core_field_exists(struct dentry___flat, d_alias))
		return (void *)first - bpf_core_field_offset(struct dentry___flat, d_alias);
	return (void *)first - bpf_core_field_offset(struct dentry, d_u.d_alias);
}

#endif /* MOONSCOPE_FILE_PATH_H */
