// SPDX-License-Identifier: MIT OR Apache-2.0
// Requests on their way: what `top` and `trace` share. A request is known by the address of its fuse_req: its number
// (`unique`) is one connection's own, and is not given yet, or given again, on some ways to the server.
#pragma once
#include "fuse.h"

// A request that was sent and is not answered yet.
struct start {
    u64 sent_ns;
    u64 node;
    u64 unique;
    u64 task;
    u32 dev;
    u32 opcode;
    u32 tgid;
    u32 tid;
    char comm[16];
};

#define IN_FLIGHT 16384

struct {
    NUMBER(type, BPF_MAP_TYPE_HASH);
    TYPE(key, u64);
    TYPE(value, struct start);
    NUMBER(max_entries, IN_FLIGHT);
} in_flight SEC(".maps");

// How many requests did not fit into `in_flight` [0] or elsewhere [1]; by CPU.
struct {
    NUMBER(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    TYPE(key, u32);
    TYPE(value, u64);
    NUMBER(max_entries, 2);
} missed SEC(".maps");

INLINE void miss(u32 which) {
    u64 *count = bpf_map_lookup_elem(&missed, &which);
    if (count)
        *count += 1;
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
