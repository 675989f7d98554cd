// SPDX-License-Identifier: MIT OR Apache-2.0
// Tells of each request once it is answered. What is not wanted is left out here, before it costs anything more.
#include "taken.h"

// What is wanted; set before loading. 0 is everything.
const volatile u32 only_dev;
const volatile u32 only_tgid;
const volatile u64 slower_ns;
// Whether `operations` holds; its bit is the opcode's number. Opcodes of 128 and above are wanted only without it.
const volatile u8 only_operations;
const volatile u64 operations[2];

#define NAME 64

struct event {
    struct start start;
    u64 answered_ns;
    u64 answered_by;
    u32 bytes_in;
    u32 bytes_out;
    s32 error;
    // Whether sending was seen: if not, `start` has only what the request itself tells.
    u32 seen;
    char name[NAME];
};

struct {
    NUMBER(type, BPF_MAP_TYPE_RINGBUF);
    NUMBER(max_entries, 1 << 22);
} events SEC(".maps");

// Names, by request: they are the caller's, who may be gone when the answer comes.
struct name {
    char text[NAME];
};

struct {
    NUMBER(type, BPF_MAP_TYPE_HASH);
    TYPE(key, u64);
    TYPE(value, struct name);
    NUMBER(max_entries, IN_FLIGHT);
    NUMBER(map_flags, BPF_F_NO_PREALLOC);
} names SEC(".maps");

INLINE bool_t is_wanted(u32 dev, u32 opcode) {
    if (only_dev && dev != only_dev)
        return 0;
    if (only_operations && (opcode >= 128 || !(operations[opcode >> 6 & 1] >> (opcode & 63) & 1)))
        return 0;
    return 1;
}

// Operations that are about a name in a directory. Their first argument is a structure, which may be empty; older kernels
// leave out the empty one.
INLINE bool_t has_name(u32 opcode) {
    switch (opcode) {
    case 1: case 6: case 8: case 9: case 10: case 11: case 12: case 13: case 35: case 45:
    case 21: case 22: case 24:
        return 1;
    }
    return 0;
}

INLINE void remember_name(u64 address, const struct fuse_req *req, u32 opcode) {
    if (!has_name(opcode))
        return;
    struct name name = {};
    const void *text = 0;
    u32 first = req->args->in_args[0].size;
    if (first == 0 || opcode == 8 || opcode == 9 || opcode == 12 || opcode == 13 || opcode == 21 || opcode == 22 ||
        opcode == 35 || opcode == 45)
        text = req->args->in_args[1].value;
    else
        text = req->args->in_args[0].value;
    if (bpf_probe_read_kernel_str(name.text, sizeof(name.text), text) > 1)
        bpf_map_update_elem(&names, &address, &name, BPF_ANY);
}

SEC("tp_btf/fuse_request_send")
int trace_send(u64 *context) {
    const struct fuse_req *req = (void *)context[0];
    struct start start = {};
    began(&start, req);
    if (!is_wanted(start.dev, start.opcode) || (only_tgid && start.tgid != only_tgid))
        return 0;
    remember(context[0], req, &start);
    remember_name(context[0], req, start.opcode);
    return 0;
}

SEC("tp_btf/fuse_request_end")
int trace_end(u64 *context) {
    const struct fuse_req *req = (void *)context[0];
    u64 address = context[0];
    u64 now = bpf_ktime_get_ns();
    struct start *start = bpf_map_lookup_elem(&in_flight, &address);
    u32 dev = req->fm->fc->dev, opcode = req->in.h.opcode;
    if (!start && (slower_ns || only_tgid || !is_wanted(dev, opcode)))
        return 0;
    if (!start || now - start->sent_ns >= slower_ns) {
        struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
        if (event) {
            struct name *name = bpf_map_lookup_elem(&names, &address);
            if (start)
                event->start = *start;
            else
                event->start = (struct start){ .sent_ns = now, .node = req->in.h.nodeid, .unique = req->in.h.unique,
                                               .dev = dev, .opcode = opcode, .tgid = req->in.h.pid };
            event->answered_ns = now;
            event->answered_by = bpf_get_current_pid_tgid() >> 32;
            event->bytes_in = req->in.h.len;
            event->bytes_out = req->out.h.len;
            event->error = req->out.h.error;
            event->seen = start != 0;
            if (name)
                __builtin_memcpy(event->name, name->text, NAME);
            else
                event->name[0] = 0;
            bpf_ringbuf_submit(event, 0);
        } else {
            miss(1);
        }
    }
    if (start) {
        forget(address, req);
        bpf_map_delete_elem(&names, &address);
    }
    return 0;
}

LICENSE;
