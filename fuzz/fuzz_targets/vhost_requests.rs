//! Any requests in a queue of a virtio-fs device that shares a directory.
#![no_main]

#[path = "../vhost/mod.rs"]
mod vhost;

libfuzzer_sys::fuzz_target!(|data: &[u8]| vhost::requests::run(data));
