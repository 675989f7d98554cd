// SPDX-License-Identifier: MIT OR Apache-2.0
// Counts and times the requests of every connection, by operation. Nothing leaves the kernel here: the reader looks into the
// maps when it wants to.
#include "requests.h"

// Latencies: bucket 4*e+q holds [2^(e+8) * (4+q)/4, ...) ns; the first also what is shorter, the last what is longer.
#define BUCKETS 128

struct key {
    u32 dev;
    u32 opcode;
};

struct operation {
    u64 count;
    u64 errors;
    u64 timed;
    u64 total_ns;
    u64 longest_ns;
    u64 bytes_in;
    u64 bytes_out;
    u64 answered_by;
    u64 buckets[BUCKETS];
};

struct {
    NUMBER(type, BPF_MAP_TYPE_PERCPU_HASH);
    TYPE(key, struct key);
    TYPE(value, struct operation);
    NUMBER(max_entries, 4096);
    NUMBER(map_flags, BPF_F_NO_PREALLOC);
} operations SEC(".maps");

static const struct operation nothing;

INLINE u32 bucket(u64 ns) {
    u32 log = 0;
    u64 rest = ns;
    if (ns < 256)
        return 0;
    if (rest >> 32) { log += 32; rest >>= 32; }
    if (rest >> 16) { log += 16; rest >>= 16; }
    if (rest >> 8) { log += 8; rest >>= 8; }
    if (rest >> 4) { log += 4; rest >>= 4; }
    if (rest >> 2) { log += 2; rest >>= 2; }
    log += rest >> 1;
    u32 index = 4 * (log - 8) + ((ns >> (log - 2)) & 3);
    return index < BUCKETS ? index : BUCKETS - 1;
}

SEC("tp_btf/fuse_request_send")
int top_send(u64 *context) {
    const struct fuse_req *req = (void *)context[0];
    u64 key = context[0];
    struct start start = {};
    began(&start, req);
    if (bpf_map_update_elem(&in_flight, &key, &start, BPF_ANY))
        miss(0);
    return 0;
}

SEC("tp_btf/fuse_request_end")
int top_end(u64 *context) {
    const struct fuse_req *req = (void *)context[0];
    u64 address = context[0];
    struct key key = { .dev = req->fm->fc->dev, .opcode = req->in.h.opcode };
    struct operation *op = bpf_map_lookup_elem(&operations, &key);
    if (!op) {
        bpf_map_update_elem(&operations, &key, &nothing, BPF_NOEXIST);
        op = bpf_map_lookup_elem(&operations, &key);
        if (!op) {
            miss(1);
            bpf_map_delete_elem(&in_flight, &address);
            return 0;
        }
    }
    // Another answer may interrupt this one on kernels where tracepoints can be preempted.
    __sync_fetch_and_add(&op->count, 1);
    op->errors += req->out.h.error != 0;
    op->bytes_in += req->in.h.len;
    op->bytes_out += req->out.h.len;
    op->answered_by = bpf_get_current_pid_tgid() >> 32;
    struct start *start = bpf_map_lookup_elem(&in_flight, &address);
    if (start) {
        u64 ns = bpf_ktime_get_ns() - start->sent_ns;
        op->timed += 1;
        op->total_ns += ns;
        if (ns > op->longest_ns)
            op->longest_ns = ns;
        op->buckets[bucket(ns) & (BUCKETS - 1)] += 1;
        bpf_map_delete_elem(&in_flight, &address);
    }
    return 0;
}

LICENSE;
