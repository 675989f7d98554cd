//! The virtio-fs device (virtio 1.2, section 5.11): how FUSE messages travel to a virtual machine.

use zerocopy::little_endian::U32;

wire! {
    /// `struct virtio_fs_config`: configuration space of the device.
    ///
    /// Linux knows only the first [`VIRTIO_FS_CONFIG_BASE_SIZE`] bytes.
    struct VirtioFsConfig: "virtio_fs_config" = 44 {
        /// Name to mount by: UTF-8, padded with NULs, without a NUL if it is 36 bytes long.
        0 => tag: [u8; 36],
        /// How many request queues the device has, at least 1. Little-endian.
        36 => num_request_queues: U32,
        /// Smallest buffer of the notification queue in bytes; exists with [`VIRTIO_FS_F_NOTIFICATION`] only.
        /// Little-endian.
        40 => notify_buf_size: U32,
    }
}

/// Virtio device type of a file system device.
pub const VIRTIO_ID_FS: u32 = 26;
/// Feature bit number: the device has a notification queue. Linux never accepts it.
pub const VIRTIO_FS_F_NOTIFICATION: u32 = 0;
/// Length of [`VirtioFsConfig`] in bytes without [`VIRTIO_FS_F_NOTIFICATION`].
pub const VIRTIO_FS_CONFIG_BASE_SIZE: usize = 40;
/// Index of the queue for urgent messages (FORGET, BATCH_FORGET, INTERRUPT).
pub const VIRTIO_FS_HIPRIO_QUEUE: u16 = 0;
/// Index of the first request queue without [`VIRTIO_FS_F_NOTIFICATION`]; with it, this is the notification
/// queue.
pub const VIRTIO_FS_FIRST_REQUEST_QUEUE: u16 = 1;
/// Id of the shared memory region that is the DAX window.
pub const VIRTIO_FS_SHMCAP_ID_CACHE: u8 = 0;
