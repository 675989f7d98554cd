//! Any vhost-user messages to a virtio-fs device.
#![no_main]

#[path = "../vhost/mod.rs"]
mod vhost;

libfuzzer_sys::fuzz_target!(|data: &[u8]| vhost::control::run(data));
