//! The other side of a device: a monitor and a virtio-fs driver in user space.
//!
//! [`Monitor`] connects to the socket, hands over memory of its own and sets queues up, [`Driver`] sends requests through one of
//! them as Linux does, and [`Ring`] is what there is below that, for tests that do it wrong and for load.

mod again;
mod driver;
mod plugged;
pub mod ring;
mod send;
mod window;
mod written;

pub use again::{Inflight, send};
pub use driver::{Driver, Reply};
pub use plugged::Plugged;
pub use ring::Ring;
pub use send::FORGETS;
pub use window::{Hold, Mapped, Window};
pub use written::{PAGE, Written};

use ring::Used;
use std::{io, os::fd::AsRawFd, os::unix::net::UnixStream, path::Path, sync::Arc};
use vhost::{
    VhostBackend, VhostUserMemoryRegionInfo, VringConfigData,
    vhost_user::{
        Frontend, VhostUserFrontend,
        message::{VhostUserConfigFlags, VhostUserProtocolFeatures, VhostUserVirtioFeatures},
    },
};
use virtio_bindings::bindings::{
    virtio_config::VIRTIO_F_VERSION_1,
    virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC},
};
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
};

/// What a guest is to be like.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Request queues.
    pub queues: u16,
    /// With fewer queues than that it is content, if the device has no more.
    pub fewer: bool,
    /// Entries of each.
    pub size: u16,
    /// Requests that each can have under way.
    pub depth: u16,
    /// Most data of one request, bytes.
    pub data: u32,
    /// Both sides say which requests and answers they want to be told of.
    pub event_idx: bool,
    /// Requests are described in tables of their own.
    pub indirect: bool,
    /// Keep for the device what is under way, if it wants that: QEMU's own virtio-fs device does not.
    pub inflight: bool,
    /// Have a DAX window, if the device offers one.
    pub window: Maps,
}

/// What a monitor maps into a DAX window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maps {
    /// Nothing: there is none.
    Nothing,
    /// What lies within the file, as QEMU does.
    Exact,
    /// Also what lies behind its end.
    Beyond,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            queues: 1,
            fewer: false,
            size: 128,
            depth: 8,
            data: 1 << 20,
            event_idx: true,
            indirect: true,
            inflight: true,
            window: Maps::Exact,
        }
    }
}

/// A monitor that is connected to a device.
pub struct Monitor {
    /// For what is not here.
    pub frontend: Frontend,
    /// The guest's memory.
    pub memory: Arc<GuestMemoryMmap>,
    /// A driver for each queue, the one for FORGET first.
    pub drivers: Vec<Driver>,
    /// The DAX window.
    pub window: Option<Window>,
    /// What the device wants kept.
    pub inflight: Option<Inflight>,
    layout: Layout,
    /// What was agreed on.
    features: u64,
    /// Where the rings are.
    places: Vec<VringConfigData>,
}

fn other(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

impl Monitor {
    /// Connect to a socket and start the device.
    ///
    /// # Errors
    /// Whatever the device refuses.
    pub fn connect(socket: &Path, layout: Layout) -> io::Result<Self> {
        Self::start(UnixStream::connect(socket)?, layout)
    }

    /// The same over a connection that there is.
    ///
    /// # Errors
    /// Whatever the device refuses.
    pub fn start(stream: UnixStream, layout: Layout) -> io::Result<Self> {
        let mut frontend = Frontend::from_stream(stream, u64::from(layout.queues) + 1);
        frontend.set_owner().map_err(other)?;
        let features = negotiate(&mut frontend, layout)?;
        let layout = fit(&mut frontend, layout)?;
        let queues = u64::from(layout.queues) + 1;
        let window = window(&mut frontend, layout.window == Maps::Exact)?;
        let per_queue = (Ring::bytes(layout.size) + Driver::bytes(&layout)).next_multiple_of(4096);
        let memory = Arc::new(memory_at(0, per_queue * queues)?);
        let region = memory.iter().next().ok_or_else(|| other("no memory"))?;
        let region = VhostUserMemoryRegionInfo::from_guest_region(region).map_err(other)?;
        frontend.set_mem_table(&[region]).map_err(other)?;
        let inflight = match layout.inflight {
            true => Inflight::of(&mut frontend, queues as u16, layout.size)?,
            false => None,
        };
        let mut drivers = Vec::new();
        for queue in 0..queues {
            let base = GuestAddress(queue * per_queue);
            let ring = Ring::new(memory.clone(), base, layout.size, layout.event_idx)?;
            drivers.push(Driver::new(ring, GuestAddress(base.0 + Ring::bytes(layout.size)), &layout));
        }
        let places = vec![VringConfigData::default(); drivers.len()];
        let mut monitor = Self { frontend, memory, drivers, window, inflight, layout, features, places };
        for queue in 0..monitor.drivers.len() {
            monitor.attach(queue, 0)?;
        }
        Ok(monitor)
    }

    /// Hand a queue over.
    fn attach(&mut self, queue: usize, next: u16) -> io::Result<()> {
        let ring = &self.drivers[queue].ring;
        let base = self.base()?;
        // The device is told of rings by the addresses that they have here.
        let here = |address: GuestAddress| base + address.0;
        let config = VringConfigData {
            queue_max_size: ring.size,
            queue_size: ring.size,
            flags: 0,
            desc_table_addr: here(ring.table),
            avail_ring_addr: here(ring.avail()),
            used_ring_addr: here(ring.used()),
            log_addr: None,
        };
        self.places[queue] = config;
        self.frontend.set_vring_num(queue, ring.size).map_err(other)?;
        self.frontend.set_vring_addr(queue, &config).map_err(other)?;
        self.frontend.set_vring_base(queue, next).map_err(other)?;
        self.frontend.set_vring_call(queue, &ring.call).map_err(other)?;
        self.frontend.set_vring_kick(queue, &ring.kick).map_err(other)?;
        self.frontend.set_vring_enable(queue, true).map_err(other)
    }

    /// Stop a queue and start it anew, as a driver does that resets the device: whatever was under way is gone.
    ///
    /// # Errors
    /// Whatever the device refuses.
    pub fn restart(&mut self, queue: usize) -> io::Result<()> {
        self.frontend.get_vring_base(queue).map_err(other)?;
        self.renew(queue)?;
        self.attach(queue, 0)
    }

    /// An empty ring in the place of a queue's that is stopped.
    fn renew(&mut self, queue: usize) -> io::Result<()> {
        let table = self.drivers[queue].ring.table;
        let zeros = vec![0u8; Ring::bytes(self.layout.size) as usize];
        vm_memory::Bytes::write_slice(&*self.memory, &zeros, table).map_err(other)?;
        let ring = Ring::new(self.memory.clone(), table, self.layout.size, self.layout.event_idx)?;
        let buffers = GuestAddress(table.0 + Ring::bytes(self.layout.size));
        self.drivers[queue] = Driver::new(ring, buffers, &self.layout);
        Ok(())
    }

    /// Configuration space of the device.
    ///
    /// # Errors
    /// If the device has none.
    pub fn config(&mut self, len: u32) -> io::Result<Vec<u8>> {
        let room = vec![0; len as usize];
        let (_, bytes) =
            self.frontend.get_config(0, len, VhostUserConfigFlags::empty(), &room).map_err(other)?;
        Ok(bytes)
    }

    /// The driver of the first request queue.
    pub fn driver(&mut self) -> &mut Driver {
        &mut self.drivers[1]
    }

    /// The driver of the queue for FORGET.
    pub fn hiprio(&mut self) -> &mut Driver {
        &mut self.drivers[0]
    }
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor").field("layout", &self.layout).finish_non_exhaustive()
    }
}

/// What was agreed on.
fn negotiate(frontend: &mut Frontend, layout: Layout) -> io::Result<u64> {
    let offered = frontend.get_features().map_err(other)?;
    let mut wanted = 1 << VIRTIO_F_VERSION_1 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
    if layout.event_idx {
        wanted |= 1 << VIRTIO_RING_F_EVENT_IDX;
    }
    if layout.indirect {
        wanted |= 1 << VIRTIO_RING_F_INDIRECT_DESC;
    }
    if offered & wanted != wanted {
        return Err(other(format!("the device offers {offered:#x} and not all of {wanted:#x}")));
    }
    frontend.set_features(wanted).map_err(other)?;
    let features = wanted;
    let wanted = VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::CONFIG
        | VhostUserProtocolFeatures::REPLY_ACK
        | VhostUserProtocolFeatures::RESET_DEVICE
        | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
        | VhostUserProtocolFeatures::DEVICE_STATE
        | VhostUserProtocolFeatures::LOG_SHMFD
        | match layout.inflight {
            true => VhostUserProtocolFeatures::INFLIGHT_SHMFD,
            false => VhostUserProtocolFeatures::empty(),
        }
        | match layout.window {
            Maps::Nothing => VhostUserProtocolFeatures::empty(),
            Maps::Exact | Maps::Beyond => SHARED_MEMORY,
        };
    let offered = frontend.get_protocol_features().map_err(other)?;
    frontend.set_protocol_features(offered & wanted).map_err(other)?;
    if offered.contains(VhostUserProtocolFeatures::REPLY_ACK) {
        frontend.set_hdr_flags(vhost::vhost_user::message::VhostUserHeaderFlag::NEED_REPLY);
    }
    Ok(features)
}

/// The same with no more queues than the device has, if it may have fewer.
fn fit(frontend: &mut Frontend, layout: Layout) -> io::Result<Layout> {
    if !layout.fewer {
        return Ok(layout);
    }
    let offered = frontend.get_queue_num().map_err(other)?;
    let queues = offered.checked_sub(1).filter(|&queues| queues > 0);
    let queues =
        queues.ok_or_else(|| other(format!("a device of {offered} queues has none for requests")))?;
    Ok(Layout { queues: layout.queues.min(u16::try_from(queues).unwrap_or(u16::MAX)), ..layout })
}

/// What a DAX window takes.
const SHARED_MEMORY: VhostUserProtocolFeatures = VhostUserProtocolFeatures::SHMEM
    .union(VhostUserProtocolFeatures::BACKEND_REQ)
    .union(VhostUserProtocolFeatures::BACKEND_SEND_FD);

/// The window that the device has, if it has one.
fn window(frontend: &mut Frontend, exact: bool) -> io::Result<Option<Window>> {
    let Ok(config) = frontend.get_shmem_config() else { return Ok(None) };
    match config.memory_sizes[0] {
        0 => Ok(None),
        size => Window::open(frontend, size, exact).map(Some),
    }
}

/// So much memory, which can be handed to another process.
fn memory_at(at: u64, len: u64) -> io::Result<GuestMemoryMmap> {
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    let file = memfd_create(c"fusewire-guest", MemfdFlags::CLOEXEC)?;
    ftruncate(&file, len)?;
    let region =
        vm_memory::MmapRegion::from_file(FileOffset::new(file.into(), 0), len as usize).map_err(other)?;
    let region =
        GuestRegionMmap::new(region, GuestAddress(at)).ok_or_else(|| other("the memory is too long"))?;
    debug_assert!(region.file_offset().is_some_and(|file| file.file().as_raw_fd() >= 0));
    GuestMemoryMmap::from_regions(vec![region]).map_err(other)
}

/// An answer's length without its header, as the device says.
fn body_len(used: Used) -> usize {
    (used.len as usize).saturating_sub(size_of::<fusewire_abi::OutHeader>())
}
