//! Watching the requests of every FUSE mount of the machine.
