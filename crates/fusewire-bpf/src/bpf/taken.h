// SPDX-License-Identifier: MIT OR Apache-2.0
// When the server gets a request. The kernel has no tracepoint for it, so it is seen by what follows at once: a read of /dev/fuse
// returns with the request in the server's buffer, or a ring completes the command that carries it. Every system call and every
// completion of the machine passes here, so these are attached only where split times are asked for.
#pragma once
#include "requests.h"

struct inode {
    u32 i_rdev;
} OF_KERNEL;

struct file {
    struct inode *f_inode;
    void *private_data;
} OF_KERNEL;

struct fdtable {
    u32 max_fds;
    struct file **fd;
} OF_KERNEL;

struct files_struct {
    struct fdtable *fdt;
} OF_KERNEL;

struct task_struct {
    int pid;
    u32 __state;
    struct files_struct *files;
} OF_KERNEL;

struct fuse_dev {
    struct fuse_conn *fc;
} OF_KERNEL;

struct fuse_ring_ent {
    struct fuse_req *fuse_req;
} OF_KERNEL;

struct io_kiocb {
    u8 opcode;
} OF_KERNEL;

struct io_uring_cmd {
    struct file *file;
    u32 cmd_op;
    u8 pdu[32];
} OF_KERNEL;

// x86-64; on others the relocation fails, and with it the program that needs it.
struct pt_regs {
    unsigned long si;
    unsigned long di;
    unsigned long orig_ax;
} OF_KERNEL;

// The device 10:229, as the kernel packs it.
#define DEV_FUSE (10u << 20 | 229u)
// System calls of x86-64 that read into the caller's memory.
enum { NR_READ = 0, NR_READV = 19 };
// A ring's command in the short and in the long form, and what FUSE calls its two.
enum { IORING_OP_URING_CMD = 46, FUSE_REGISTER = 1, FUSE_COMMIT_AND_FETCH = 2 };
#define HEADER 40

#define READ(to, pointer) bpf_probe_read_kernel(&(to), sizeof(to), __builtin_preserve_access_index(&(pointer)))

INLINE bool_t is_dev_fuse(const struct file *file) {
    struct inode *inode = 0;
    u32 device = 0;
    READ(inode, file->f_inode);
    READ(device, inode->i_rdev);
    return device == DEV_FUSE;
}

INLINE void taken(u64 address) {
    struct start *start = bpf_map_lookup_elem(&in_flight, &address);
    if (start && !start->taken_ns)
        start->taken_ns = bpf_ktime_get_ns();
}

INLINE struct file *open_file(u32 fd) {
    struct task_struct *task = (void *)bpf_get_current_task();
    struct files_struct *files = 0;
    struct fdtable *table = 0;
    struct file **array = 0, *file = 0;
    u32 limit = 0;
    READ(files, task->files);
    READ(table, files->fdt);
    READ(limit, table->max_fds);
    READ(array, table->fd);
    if (fd >= limit)
        return 0;
    bpf_probe_read_kernel(&file, sizeof(file), array + fd);
    return file;
}

SEC("tp_btf/sys_exit")
int taken_by_read(u64 *context) {
    struct pt_regs *regs = (void *)context[0];
    if ((s64)context[1] < HEADER)
        return 0;
    u64 number = regs->orig_ax;
    if (number != NR_READ && number != NR_READV)
        return 0;
    struct file *file = open_file(regs->di);
    if (!file || !is_dev_fuse(file))
        return 0;
    void *buffer = (void *)regs->si;
    // The first piece of a vector holds the header, as every server has it.
    if (number == NR_READV && bpf_probe_read_user(&buffer, sizeof(buffer), buffer))
        return 0;
    struct fuse_dev *dev = 0;
    struct number key = {};
    READ(dev, file->private_data);
    READ(key.connection, dev->fc);
    bpf_probe_read_user(&key.unique, sizeof(key.unique), buffer + 8);
    u64 *address = bpf_map_lookup_elem(&numbers, &key);
    if (address)
        taken(*address);
    return 0;
}

SEC("tp_btf/io_uring_complete")
int taken_by_ring(u64 *context) {
    struct io_kiocb *request = (void *)context[1];
    struct io_uring_cmd *command = (void *)context[1];
    struct fuse_ring_ent *entry = 0;
    struct file *file = 0;
    u64 address = 0;
    u32 operation = 0;
    u8 opcode = 0;
    READ(opcode, request->opcode);
    if (opcode < IORING_OP_URING_CMD)
        return 0;
    READ(operation, command->cmd_op);
    if (operation != FUSE_REGISTER && operation != FUSE_COMMIT_AND_FETCH)
        return 0;
    READ(file, command->file);
    if (!is_dev_fuse(file))
        return 0;
    bpf_probe_read_kernel(&entry, sizeof(entry), __builtin_preserve_access_index(&command->pdu));
    READ(address, entry->fuse_req);
    taken(address);
    return 0;
}
