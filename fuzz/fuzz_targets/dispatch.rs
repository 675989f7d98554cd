//! Any bytes as a request, decoded and dispatched to a filesystem that answers everything.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fusewire_fuzz::dispatch(data));
