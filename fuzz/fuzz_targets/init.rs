//! Any bytes as INIT and as what a filesystem wants.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fusewire_fuzz::init(data));
