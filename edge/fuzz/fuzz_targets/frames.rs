//! Whatever bytes a client sends as a frame, in JSON or in protobuf.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| confab_edge::read_frame(bytes));
