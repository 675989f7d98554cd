// SPDX-License-Identifier: MIT OR Apache-2.0
// Counts and times the requests of every connection, by operation. Nothing leaves the kernel here: the reader looks into the
// maps when it wants to.
#include "taken.h"

// Latencies: bucket 4*e+q begins at 2^(e+8) * (4+q)/4 ns; the first also has what is shorter, the last what is longer.
#define BUCKETS 128

struct key {
    u32 dev;
    u32 opcode;
};

struct operation {
    u64 count;
    u64 errors;
    u64 bytes_in;
    u64 bytes_out;
    u64 answered_by;
    u64 longest_ns;
    u64 timed;
    u64 total_ns;
    u64 buckets[BUCKETS];
};

struct {
    NUMBER(type, BPF_MAP_TYPE_PERCPU_HASH);
    TYPE(key, struct key);
    TYPE(value, struct operation);
    NUMBER(max_entries, 4096);
    NUMBER(map_flags, BPF_F_NO_PREALLOC);
} operations SEC(".maps");

// A part of the way: how many were timed, and how long they took.
struct part {
    u64 timed;
    u64 total_ns;
    u64 buckets[BUCKETS];
};

// From sending to the server's read; from there to the answer; from there until the caller runs.
enum { QUEUE, SERVICE, WAKE, PARTS };

struct parts {
    struct part part[PARTS];
};

struct {
    NUMBER(type, BPF_MAP_TYPE_PERCPU_HASH);
    TYPE(key, struct key);
    TYPE(value, struct parts);
    NUMBER(max_entries, 4096);
    NUMBER(map_flags, BPF_F_NO_PREALLOC);
} parts SEC(".maps");

// A caller that sleeps and whose request is answered, by thread.
struct waking {
    u64 answered_ns;
    struct key key;
};

struct {
    NUMBER(type, BPF_MAP_TYPE_LRU_HASH);
    TYPE(key, u32);
    TYPE(value, struct waking);
    NUMBER(max_entries, 4096);
} wakings SEC(".maps");

static const struct operation no_operation;
static const struct parts no_parts;

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

INLINE void add_part(const struct key *key, u32 which, u64 ns) {
    struct parts *parts_of = bpf_map_lookup_elem(&parts, key);
    if (!parts_of) {
        bpf_map_update_elem(&parts, key, &no_parts, BPF_NOEXIST);
        parts_of = bpf_map_lookup_elem(&parts, key);
        if (!parts_of)
            return;
    }
    struct part *part = &parts_of->part[which];
    part->timed += 1;
    part->total_ns += ns;
    part->buckets[bucket(ns) & (BUCKETS - 1)] += 1;
}

INLINE void split_times(const struct fuse_req *req, const struct start *start, const struct key *key, u64 now) {
    if (start->taken_ns) {
        add_part(key, QUEUE, start->taken_ns - start->sent_ns);
        add_part(key, SERVICE, now - start->taken_ns);
    }
    // Only a caller that sleeps is waited for; one that still runs has looked for the answer and not found it yet.
    struct task_struct *task = (void *)start->task;
    u32 state = 0;
    READ(state, task->__state);
    if (state && !(req->flags & 1 << FR_BACKGROUND)) {
        struct waking waking = { .answered_ns = now, .key = *key };
        bpf_map_update_elem(&wakings, &start->tid, &waking, BPF_ANY);
    }
}

SEC("tp_btf/fuse_request_send")
int top_send(u64 *context) {
    struct start start = {};
    began(&start, (void *)context[0]);
    remember(context[0], (void *)context[0], &start);
    return 0;
}

SEC("tp_btf/fuse_request_end")
int top_end(u64 *context) {
    const struct fuse_req *req = (void *)context[0];
    u64 address = context[0];
    struct key key = { .dev = req->fm->fc->dev, .opcode = req->in.h.opcode };
    struct start *start = bpf_map_lookup_elem(&in_flight, &address);
    struct operation *op = bpf_map_lookup_elem(&operations, &key);
    if (!op) {
        bpf_map_update_elem(&operations, &key, &no_operation, BPF_NOEXIST);
        op = bpf_map_lookup_elem(&operations, &key);
    }
    if (op) {
        // Another answer may interrupt this one on kernels where tracepoints can be preempted.
        __sync_fetch_and_add(&op->count, 1);
        op->errors += req->out.h.error != 0;
        op->bytes_in += req->in.h.len;
        op->bytes_out += req->out.h.len;
        op->answered_by = bpf_get_current_pid_tgid() >> 32;
    } else {
        miss(1);
    }
    if (!start)
        return 0;
    u64 now = bpf_ktime_get_ns();
    u64 ns = now - start->sent_ns;
    if (op) {
        op->timed += 1;
        op->total_ns += ns;
        if (ns > op->longest_ns)
            op->longest_ns = ns;
        op->buckets[bucket(ns) & (BUCKETS - 1)] += 1;
    }
    if (split)
        split_times(req, start, &key, now);
    forget(address, req);
    return 0;
}

SEC("tp_btf/sched_switch")
int top_runs(u64 *context) {
    const struct task_struct *next = (void *)context[2];
    u32 tid = next->pid;
    struct waking *waking = bpf_map_lookup_elem(&wakings, &tid);
    if (waking) {
        struct key key = waking->key;
        add_part(&key, WAKE, bpf_ktime_get_ns() - waking->answered_ns);
        bpf_map_delete_elem(&wakings, &tid);
    }
    return 0;
}

LICENSE;
