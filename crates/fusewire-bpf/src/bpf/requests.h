// SPDX-License-Identifier: MIT OR Apache-2.0
// Requests on their way: what `top` and `trace` share. A request is known by the address of its fuse_req: its number
// (`unique`) is one connection's own, and is given again.
#pragma once
#include "fuse.h"

// A request that was sent and is not answered yet.
struct start {
    u64 sent_ns;
    // When the server got it; 0 if that is not known.
    u64 taken_ns;
    u64 node;
    u64 unique;
    // The task that sent it.
    u64 task;
    u32 dev;
    u32 opcode;
    u32 tgid;
    u32 tid;
    char comm[16];
};

// Whether the times of a request are to be split; set before loading.
const volatile u8 split;

#define IN_FLIGHT 16384

struct {
    NUMBER(type, BPF_MAP_TYPE_HASH);
    TYPE(key, u64);
    TYPE(value, struct start);
    NUMBER(max_entries, IN_FLIGHT);
} in_flight SEC(".maps");

// A connection's number of a request, with split times only: the server's buffer tells this number and not the address.
struct number {
    u64 connection;
    u64 unique;
};

struct {
    NUMBER(type, BPF_MAP_TYPE_HASH);
    TYPE(key, struct number);
    TYPE(value, u64);
    NUMBER(max_entries, IN_FLIGHT);
    NUMBER(map_flags, BPF_F_NO_PREALLOC);
} numbers SEC(".maps");

// What had no room, by CPU: [0] requests in `in_flight`, [1] operations or events.
struct {
    NUMBER(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    TYPE(key, u32);
    TYPE(value, u64);
    NUMBER(max_entries, 2);
} missed SEC(".maps");

INLINE void miss(u32 which) {
    u64 *count = bpf_map_lookup_elem(&missed, &which);
    if (count)
        __sync_fetch_and_add(count, 1);
}

INLINE void began(struct start *start, const struct fuse_req *req) {
    u64 id = bpf_get_current_pid_tgid();
    start->sent_ns = bpf_ktime_get_ns();
    start->node = req->in.h.nodeid;
    start->unique = req->in.h.unique;
    start->task = bpf_get_current_task();
    start->dev = req->fm->fc->dev;
    start->opcode = req->in.h.opcode;
    start->tgid = id >> 32;
    start->tid = (u32)id;
    bpf_get_current_comm(start->comm, sizeof(start->comm));
}

INLINE void remember(u64 address, const struct fuse_req *req, struct start *start) {
    if (bpf_map_update_elem(&in_flight, &address, start, BPF_ANY)) {
        miss(0);
        return;
    }
    if (split) {
        struct number number = { .connection = (u64)req->fm->fc, .unique = start->unique };
        bpf_map_update_elem(&numbers, &number, &address, BPF_ANY);
    }
}

INLINE void forget(u64 address, const struct fuse_req *req) {
    bpf_map_delete_elem(&in_flight, &address);
    if (split) {
        struct number number = { .connection = (u64)req->fm->fc, .unique = req->in.h.unique };
        bpf_map_delete_elem(&numbers, &number);
    }
}
