// SPDX-License-Identifier: MIT OR Apache-2.0
// Answers that the server has given before and that still hold, given again by the kernel: somebody may not do something, and
// an attribute is absent. Whatever is not in the maps is asked of the server; nothing here can say yes.
#include "bpf.h"

struct super_block {
    u32 s_dev;
} OF_KERNEL;

struct inode {
    struct super_block *i_sb;
    unsigned long i_ino;
    u32 i_generation;
} OF_KERNEL;

struct fuse_inode {
    struct inode inode;
    u64 nodeid;
} OF_KERNEL;

struct dentry {
    struct inode *d_inode;
} OF_KERNEL;

struct file {
    u32 f_mode;
    struct inode *f_inode;
} OF_KERNEL;

struct path {
    struct dentry *dentry;
} OF_KERNEL;

struct cred {
    struct {
        u32 val;
    } fsuid, fsgid;
} OF_KERNEL;

struct task_struct {
    s32 tgid;
    const struct cred *cred;
} OF_KERNEL;

enum { ABSENT_NAME = 64, EACCES = 13, ENODATA = 61 };
// The actions of a policy, as bits of what is denied.
enum { ACCESS = 1, LIST = 2, READ = 4, WRITE = 8, EXECUTE = 16 };
enum { FMODE_READ = 1, FMODE_WRITE = 2, FMODE_EXEC = 32 };

struct denied_key {
    u64 node;
    u32 generation;
    u32 uid;
    u32 gid;
    // Of the rules: what was learned under others is not found any more.
    u32 version;
};

struct absent_key {
    u64 node;
    u32 generation;
    u32 zero;
    char name[ABSENT_NAME];
};

struct {
    NUMBER(type, BPF_MAP_TYPE_LRU_HASH);
    NUMBER(max_entries, 16384);
    TYPE(key, struct denied_key);
    TYPE(value, u32);
} denied SEC(".maps");

// Who may have access to a node, decided here altogether: the first that fits, or what holds for all others. Attributes of
// these nodes may be cached, so nothing here is given up: it is not a map that forgets.
enum { SUBJECTS = 12 };

struct node_key {
    u64 node;
    u32 generation;
    u32 zero;
};

struct subjects {
    u32 denied;
    u32 first_uid, last_uid;
    u32 first_gid, last_gid;
};

struct closed {
    u32 count;
    u32 others_denied;
    struct subjects subjects[SUBJECTS];
};

struct {
    NUMBER(type, BPF_MAP_TYPE_HASH);
    NUMBER(max_entries, 65536);
    NUMBER(map_flags, BPF_F_NO_PREALLOC);
    TYPE(key, struct node_key);
    TYPE(value, struct closed);
} closed SEC(".maps");

// The value: until when, CLOCK_MONOTONIC. What is in it is counted and taken out by the one who puts it there, so that a tree that
// fits is remembered whole, and memory is taken as it is needed: a map that forgets by itself takes all of it at once.
struct {
    NUMBER(type, BPF_MAP_TYPE_HASH);
    NUMBER(max_entries, 262144);
    NUMBER(map_flags, BPF_F_NO_PREALLOC);
    TYPE(key, struct absent_key);
    TYPE(value, u64);
} absent SEC(".maps");

// What holds now, and how often something was answered here.
enum { DEVICE, SUPERBLOCK, DENIED_VERSION, DENIED_COUNT, ABSENT_COUNT, TEST_PROCESS, TEST_DEVICE, TEST_INODE, WORDS };

struct {
    NUMBER(type, BPF_MAP_TYPE_ARRAY);
    NUMBER(max_entries, WORDS);
    TYPE(key, u32);
    TYPE(value, u64);
} state SEC(".maps");

INLINE u64 number(u32 which) {
    u64 *value = bpf_map_lookup_elem(&state, &which);
    return value ? *value : 0;
}

INLINE void count(u32 which) {
    u64 *value = bpf_map_lookup_elem(&state, &which);
    if (value)
        __sync_fetch_and_add(value, 1);
}

// The number of a device is another mount's soon after the mount has ended: the superblock that had it first is remembered.
INLINE bool_t is_guarded(struct inode *inode) {
    u64 device = number(DEVICE);
    if (!device || !inode || inode->i_sb->s_dev != device)
        return 0;
    u32 which = SUPERBLOCK;
    u64 *known = bpf_map_lookup_elem(&state, &which), here = (u64)inode->i_sb;
    if (!known)
        return 0;
    if (!*known)
        *known = here;
    return *known == here;
}

// The test of the one who loaded this, on a file of its own: does an error that is returned here reach the caller?
INLINE bool_t is_test(struct inode *inode) {
    u64 process = number(TEST_PROCESS);
    return process && inode && process == bpf_get_current_pid_tgid() >> 32 && inode->i_ino == number(TEST_INODE)
        && inode->i_sb->s_dev == number(TEST_DEVICE);
}

INLINE u64 node_of(struct inode *inode) {
    // The inode is the first part of what FUSE keeps of it. Read as memory: the verifier knows it as an inode only.
    struct fuse_inode *fuse = (struct fuse_inode *)inode;
    u64 node = 0;
    bpf_probe_read_kernel(&node, sizeof(node), &fuse->nodeid);
    return node;
}

INLINE bool_t is_closed_to(struct inode *inode, u32 uid, u32 gid) {
    struct node_key key = {.node = node_of(inode), .generation = inode->i_generation};
    struct closed *closed_to = bpf_map_lookup_elem(&closed, &key);
    if (!closed_to)
        return 0;
    for (u32 i = 0; i < SUBJECTS && i < closed_to->count; i++) {
        struct subjects *these = &closed_to->subjects[i];
        if (uid >= these->first_uid && uid <= these->last_uid && gid >= these->first_gid && gid <= these->last_gid)
            return these->denied;
    }
    return closed_to->others_denied;
}

INLINE int judge_access(struct inode *inode) {
    struct task_struct *task = bpf_get_current_task_btf();
    if (!is_closed_to(inode, task->cred->fsuid.val, task->cred->fsgid.val))
        return 0;
    count(DENIED_COUNT);
    return -EACCES;
}

INLINE int judge(struct inode *inode, u32 wanted) {
    // Those that requests come with; the helper for ids tells the real ones.
    struct task_struct *task = bpf_get_current_task_btf();
    struct denied_key key = {
        .node = node_of(inode),
        .generation = inode->i_generation,
        .uid = task->cred->fsuid.val,
        .gid = task->cred->fsgid.val,
        .version = number(DENIED_VERSION),
    };
    u32 *actions = bpf_map_lookup_elem(&denied, &key);
    if (!actions || !(*actions & wanted))
        return 0;
    count(DENIED_COUNT);
    return -EACCES;
}

SEC("lsm/inode_permission")
int guard_permission(u64 *context) {
    struct inode *inode = (void *)context[0];
    if (is_test(inode))
        return -EACCES;
    return is_guarded(inode) ? judge_access(inode) : 0;
}

SEC("lsm/inode_getattr")
int guard_getattr(u64 *context) {
    struct path *path = (void *)context[0];
    struct inode *inode = path->dentry->d_inode;
    return is_guarded(inode) ? judge_access(inode) : 0;
}

SEC("lsm/file_open")
int guard_open(u64 *context) {
    struct file *file = (void *)context[0];
    struct inode *inode = file->f_inode;
    if (!is_guarded(inode))
        return 0;
    u32 mode = file->f_mode, wanted = 0;
    if (mode & FMODE_EXEC)
        wanted |= EXECUTE;
    else if (mode & FMODE_READ)
        wanted |= READ | LIST;
    if (mode & FMODE_WRITE)
        wanted |= WRITE;
    return judge(inode, wanted);
}

INLINE int judge_absence(struct inode *inode, const char *name) {
    struct absent_key key = {
        .node = node_of(inode),
        .generation = inode->i_generation,
    };
    long length = bpf_probe_read_kernel_str(key.name, sizeof(key.name), name);
    // One that fills it may be longer.
    if (length <= 0 || length >= ABSENT_NAME)
        return 0;
    u64 *until = bpf_map_lookup_elem(&absent, &key);
    if (!until || bpf_ktime_get_ns() >= *until)
        return 0;
    count(ABSENT_COUNT);
    return -ENODATA;
}

SEC("lsm/inode_getxattr")
int guard_getxattr(u64 *context) {
    struct dentry *dentry = (void *)context[0];
    const char *name = (void *)context[1];
    struct inode *inode = dentry->d_inode;
    if (is_test(inode))
        return -ENODATA;
    return is_guarded(inode) ? judge_absence(inode, name) : 0;
}

// Since Linux 6.2 access control lists are asked for by a hook of their own. The kernel caches them, but forgets those of directories
// over and over.
SEC("lsm/inode_get_acl")
int guard_get_acl(u64 *context) {
    struct dentry *dentry = (void *)context[1];
    const char *name = (void *)context[2];
    struct inode *inode = dentry->d_inode;
    return is_guarded(inode) ? judge_absence(inode, name) : 0;
}

LICENSE;
