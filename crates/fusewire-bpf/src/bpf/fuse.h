// SPDX-License-Identifier: MIT OR Apache-2.0
// The fields of the kernel's FUSE structures that are read here. Their offsets come from the running kernel.
#pragma once
#include "bpf.h"

struct fuse_in_header {
    u32 len;
    u32 opcode;
    u64 unique;
    u64 nodeid;
    u32 pid;
} OF_KERNEL;

struct fuse_out_header {
    u32 len;
    s32 error;
} OF_KERNEL;

struct fuse_conn {
    u32 dev;
} OF_KERNEL;

struct fuse_mount {
    struct fuse_conn *fc;
} OF_KERNEL;

struct fuse_in_arg {
    u32 size;
    const void *value;
} OF_KERNEL;

struct fuse_args {
    u8 in_numargs;
    struct fuse_in_arg in_args[4];
} OF_KERNEL;

struct fuse_req {
    struct fuse_args *args;
    unsigned long flags;
    struct {
        struct fuse_in_header h;
    } in;
    struct {
        struct fuse_out_header h;
    } out;
    struct fuse_mount *fm;
} OF_KERNEL;

enum fuse_req_flag { FR_BACKGROUND = 2 };
