//! What the monitor says, message by message, and the threads of the queues.
//!
//! `vhost-user-backend` has the like, but refuses everything about requests that are under way (`GET_INFLIGHT_FD`) and lets nobody
//! add to it. The messages themselves are still read by the `vhost` crate, rings are `vhost-user-backend`'s.

pub(crate) mod handed;

use crate::{
    backed, bell,
    device::Device,
    dirty::Log,
    inflight::{self, Region},
    limits::QUEUE_SIZE,
    queue::Queue,
    spare::join_all,
    worker::Worker,
};
use fusewire::fs::FileSystem;
use std::{
    fs::File,
    io,
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};
use vhost::{
    VhostUserMemoryRegionBase,
    vhost_user::{
        Backend, Error, GpuBackend, Result, VhostUserBackendReqHandlerMut,
        message::{
            VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
            VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig,
            VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVirtioFeatures,
            VhostUserVringAddrFlags, VhostUserVringState,
        },
    },
};
use vhost_user_backend::{VringMutex, VringT};
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::QueueT;
use vm_memory::{
    GuestAddress, GuestAddressSpace, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap, MmapRegion,
};
use vmm_sys_util::{
    epoll::{ControlOperation, Epoll, EpollEvent, EventSet},
    event::EventConsumer,
};

/// What the kernel's own vhost allows besides a few of its own.
const MEMORY_SLOTS: u64 = 509;

const KICK: u64 = 0;
const WAKE: u64 = 1;
const EDGE: u64 = 2;

/// A piece of the guest's memory, as the monitor has it.
#[derive(Clone, Copy, Debug)]
struct Mapping {
    there: u64,
    size: u64,
    guest: u64,
}

/// A queue's ring, and its thread.
struct Ring {
    vring: VringMutex,
    events: Arc<Epoll>,
    /// The descriptor that `events` has.
    listens: Option<i32>,
    thread: Option<JoinHandle<()>>,
}

/// What a monitor talks to.
pub(crate) struct Handler<F: FileSystem> {
    device: Arc<Device<F>>,
    owned: bool,
    features: u64,
    protocol: u64,
    mappings: Vec<Mapping>,
    rings: Vec<Ring>,
    /// Which of them were enabled, while another process is to have them; and what those that it had are to be.
    rested: Vec<bool>,
    arrived: Vec<(bool, bool)>,
    closed: Arc<AtomicBool>,
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::ReqHandlerError(io::Error::other(error.to_string()))
}

fn refused(why: &'static str) -> Error {
    Error::ReqHandlerError(io::Error::new(io::ErrorKind::InvalidInput, why))
}

impl<F: FileSystem> Handler<F> {
    /// Starts the threads of the queues.
    pub(crate) fn new(device: Arc<Device<F>>) -> io::Result<Self> {
        let closed = Arc::new(AtomicBool::new(false));
        let mut handler = Self {
            owned: false,
            features: 0,
            protocol: 0,
            mappings: Vec::new(),
            rings: Vec::new(),
            rested: Vec::new(),
            arrived: Vec::new(),
            closed: closed.clone(),
            device: device.clone(),
        };
        for queue in &device.shared.queues {
            let size = QUEUE_SIZE as u16;
            let vring = VringMutex::new(device.memory.clone(), size).map_err(io::Error::other)?;
            queue.attach(&vring);
            let events = Arc::new(Epoll::new()?);
            events.ctl(ControlOperation::Add, queue.wake.as_raw_fd(), EpollEvent::new(EventSet::IN, WAKE))?;
            let thread = std::thread::Builder::new().name(format!("queue-{}", queue.index)).spawn({
                let (device, queue, closed) = (device.clone(), queue.clone(), closed.clone());
                let (events, vring) = (events.clone(), vring.clone());
                move || {
                    let mut worker = Worker::new(device.shared.clone(), queue.clone());
                    attend(&events, &queue, &vring, &closed, || {
                        worker.work();
                        queue.turned();
                    });
                }
            })?;
            handler.rings.push(Ring { vring, events, listens: None, thread: Some(thread) });
        }
        Ok(handler)
    }

    fn ring(&self, index: u32) -> Result<&Ring> {
        self.rings.get(index as usize).ok_or(Error::InvalidParam)
    }

    /// Has the ring's thread listen, or not.
    fn listen(&mut self, index: u32) -> Result<()> {
        let ring = self.rings.get_mut(index as usize).ok_or(Error::InvalidParam)?;
        let wanted = {
            let state = ring.vring.get_ref();
            let serves = state.get_queue().ready() && state.is_enabled();
            let kick = state.get_kick().as_ref().filter(|_| serves);
            kick.map(|kick: &EventConsumer| (kick.as_raw_fd(), bell::is_counter(kick)))
        };
        if wanted.map(|wanted| wanted.0) == ring.listens {
            return Ok(());
        }
        if let Some(fd) = ring.listens.take() {
            // Closed already, at times.
            _ = ring.events.ctl(ControlOperation::Delete, fd, EpollEvent::default());
        }
        if let Some((fd, is_counter)) = wanted {
            // Each write to an eventfd is an edge, so it need not be read: its count has room for more than there will ever be.
            let event = match is_counter {
                true => EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, EDGE),
                false => EpollEvent::new(EventSet::IN, KICK),
            };
            ring.events.ctl(ControlOperation::Add, fd, event).map_err(Error::ReqHandlerError)?;
            ring.listens = Some(fd);
            // There may be something already.
            self.device.shared.queues[index as usize].wake();
        }
        Ok(())
    }

    /// Both descriptors may have come by now, in whatever order.
    fn start(&mut self, index: u32) -> Result<()> {
        let ring = self.ring(index)?;
        let begins = {
            let state = ring.vring.get_ref();
            !state.get_queue().ready() && state.get_kick().is_some()
        };
        if begins {
            if !self.lies_in_memory(index)? {
                tracing::warn!(queue = index, "the ring is not in the guest's memory: it is not served");
                return Ok(());
            }
            let queue = &self.device.shared.queues[index as usize];
            queue.recover();
            let used = self.ring(index)?.vring.queue_used_idx().unwrap_or(0);
            self.device.shared.resume_if_known(queue, used);
            self.ring(index)?.vring.set_queue_ready(true);
        }
        self.listen(index)
    }

    /// All of a ring is there, and not only its beginnings, which is what the monitor's addresses are checked for.
    fn lies_in_memory(&self, index: u32) -> Result<bool> {
        let memory = self.device.memory.memory();
        let mut state = self.ring(index)?.vring.get_mut();
        let queue = state.get_queue_mut();
        queue.set_ready(true);
        let lies_there = queue.is_valid(&*memory);
        queue.set_ready(false);
        Ok(lies_there)
    }

    /// The monitor replaces a descriptor that may be listened at.
    fn deaf(&mut self, index: u32) -> Result<()> {
        let ring = self.rings.get_mut(index as usize).ok_or(Error::InvalidParam)?;
        if let Some(fd) = ring.listens.take() {
            _ = ring.events.ctl(ControlOperation::Delete, fd, EpollEvent::default());
        }
        Ok(())
    }

    fn guest_address(&self, there: u64) -> Result<u64> {
        let found = self
            .mappings
            .iter()
            .find(|mapping| there.checked_sub(mapping.there).is_some_and(|offset| offset < mapping.size));
        found.map(|mapping| there - mapping.there + mapping.guest).ok_or(refused("no such memory"))
    }

    fn replace_memory(&self, memory: GuestMemoryMmap) -> Result<()> {
        let dirty = &self.device.shared.dirty;
        if dirty.is_too_short(memory.last_addr().0.saturating_add(1)) {
            let is_served = |ring: &Ring| ring.vring.get_ref().get_queue().ready();
            if dirty.is_on() && self.rings.iter().any(is_served) {
                return Err(refused("memory that the log of written pages has no place for"));
            }
            // It is of another time; the monitor gives another one before it starts the rings.
            dirty.replace(None);
        }
        self.device.memory.lock().unwrap_or_else(std::sync::PoisonError::into_inner).replace(memory);
        Ok(())
    }

    /// Have no more requests taken: those that are in the rings are for whoever serves the guest next.
    pub(crate) fn close(&mut self) {
        self.closed.store(true, Ordering::Release);
        self.device.abandon_transfer();
        for (ring, queue) in self.rings.iter_mut().zip(&self.device.shared.queues) {
            ring.vring.set_enabled(false);
            queue.wake();
        }
    }

    /// Wait for the threads to end, after [`close`](Self::close), but not for long for those that are stuck in a system call.
    pub(crate) fn join(&mut self) {
        join_all(self.rings.iter_mut().filter_map(|ring| ring.thread.take()).collect());
        // The monitor may give the rings to somebody else at once. What those threads have under way is for whoever that is.
        self.device.shared.queues.iter().for_each(|queue| queue.disown());
    }
}

impl<F: FileSystem> Drop for Handler<F> {
    fn drop(&mut self) {
        self.close();
    }
}

/// A queue's thread.
fn attend(events: &Epoll, queue: &Queue, vring: &VringMutex, closed: &AtomicBool, mut work: impl FnMut()) {
    let mut happened = [EpollEvent::default(); 4];
    while !closed.load(Ordering::Acquire) {
        let count = match events.wait(-1, &mut happened) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                tracing::error!(queue = queue.index, %error, "a queue cannot be waited for; it is not served any more");
                return;
            }
        };
        for event in &happened[..count] {
            match event.data() {
                WAKE => queue.hear(),
                EDGE => {}
                _ => _ = vring.read_kick(),
            }
        }
        if closed.load(Ordering::Acquire) {
            return;
        }
        work();
    }
}

type Bases = Result<Option<Vec<VhostUserMemoryRegionBase>>>;

impl<F: FileSystem> VhostUserBackendReqHandlerMut for Handler<F> {
    fn set_owner(&mut self) -> Result<()> {
        if self.owned {
            return Err(Error::InvalidOperation("already claimed"));
        }
        self.owned = true;
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        (self.owned, self.features, self.protocol) = (false, 0, 0);
        self.device.log(false);
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        // All of them take nothing more before any of them is waited for.
        for index in 0..self.rings.len() as u32 {
            let vring = &self.ring(index)?.vring;
            vring.set_enabled(false);
            vring.set_queue_ready(false);
            self.listen(index)?;
        }
        let queues = &self.device.shared.queues;
        self.device.stop(queues);
        for (ring, queue) in self.rings.iter().zip(queues) {
            queue.reset();
            ring.vring.set_kick(None);
            ring.vring.set_call(None);
            ring.vring.set_err(None);
        }
        self.features = 0;
        self.device.log(false);
        self.device.reset_device();
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.device.features())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !self.device.features() != 0 {
            return Err(Error::InvalidParam);
        }
        self.features = features;
        self.device.log(features & VhostUserVirtioFeatures::LOG_ALL.bits() != 0);
        for index in 0..self.rings.len() as u32 {
            let vring = &self.ring(index)?.vring;
            vring.set_queue_event_idx(features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0);
            if features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0 {
                vring.set_enabled(true);
                self.listen(index)?;
            }
        }
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        postcopy: Option<bool>,
    ) -> Bases {
        if postcopy.is_some() {
            return Err(Error::InvalidOperation("there is no migration after the copy"));
        }
        let (mut pieces, mut mappings) = (Vec::new(), Vec::new());
        for (region, file) in regions.iter().zip(files) {
            pieces.push(self.piece(region.mmap_region(file)?, region.guest_phys_addr)?);
            mappings.push(Mapping {
                there: region.user_addr,
                size: region.memory_size,
                guest: region.guest_phys_addr,
            });
        }
        self.replace_memory(GuestMemoryMmap::from_regions(pieces).map_err(failed)?)?;
        self.mappings = mappings;
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let fits = |&size: &u16| size.is_power_of_two() && usize::from(size) <= QUEUE_SIZE;
        let size = u16::try_from(num).ok().filter(fits);
        self.ring(index)?.vring.set_queue_size(size.ok_or(Error::InvalidParam)?);
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        log: u64,
    ) -> Result<()> {
        let [table, available, used] =
            [descriptor, available, used].map(|there| self.guest_address(there).map(GuestAddress));
        let memory = self.device.memory.memory();
        let mut state = self.ring(index)?.vring.get_mut();
        let is_logged = flags.contains(VhostUserVringAddrFlags::VHOST_VRING_F_LOG);
        self.device.shared.queues[index as usize].log_at(is_logged.then_some(log));
        let queue = state.get_queue_mut();
        queue.try_set_desc_table_address(table?).map_err(|_| Error::InvalidParam)?;
        queue.try_set_avail_ring_address(available?).map_err(|_| Error::InvalidParam)?;
        queue.try_set_used_ring_address(used?).map_err(|_| Error::InvalidParam)?;
        // A ring that is served is told only where it is logged; answers are put into it meanwhile.
        if !queue.ready() {
            // What the device has written last is in the guest's memory; the monitor says what it has read last.
            let next =
                queue.used_idx(&*memory, Ordering::Relaxed).map_err(|_| Error::BackendInternalError)?;
            queue.set_next_used(next.0);
        }
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        self.ring(index)?.vring.set_queue_next_avail(base as u16);
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        self.ring(index)?.vring.set_queue_ready(false);
        self.listen(index)?;
        self.device.stop(&self.device.shared.queues[index as usize..][..1]);
        // Its thread may only be about to tell the guest of the last answers, and could not any more.
        self.device.shared.queues[index as usize].signal();
        let vring = &self.ring(index)?.vring;
        let next = vring.queue_next_avail();
        vring.set_kick(None);
        vring.set_call(None);
        Ok(VhostUserVringState::new(index, u32::from(next)))
    }

    fn set_vring_kick(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let file = file.map(bell::unwaiting).transpose().map_err(Error::ReqHandlerError)?;
        self.deaf(index.into())?;
        self.ring(index.into())?.vring.set_kick(file);
        self.start(index.into())
    }

    fn set_vring_call(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let file = file.map(bell::unwaiting).transpose().map_err(Error::ReqHandlerError)?;
        self.ring(index.into())?.vring.set_call(file);
        self.start(index.into())
    }

    fn set_vring_err(&mut self, index: u8, file: Option<File>) -> Result<()> {
        self.ring(index.into())?.vring.set_err(file);
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(self.device.protocol_features())
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        // What is said beyond the offer is not agreed on.
        self.protocol = features & self.device.protocol_features().bits();
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.rings.len() as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        let feature = VhostUserVirtioFeatures::PROTOCOL_FEATURES;
        if self.features & feature.bits() == 0 {
            return Err(Error::InactiveFeature(feature));
        }
        self.ring(index)?.vring.set_enabled(enable);
        // Addresses may have come after the kick.
        self.start(index)
    }

    fn get_config(&mut self, offset: u32, size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        Ok(self.device.get_config(offset, size))
    }

    fn set_config(&mut self, _offset: u32, _bytes: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        Err(refused("the configuration cannot be changed"))
    }

    fn set_backend_req_fd(&mut self, backend: Backend) {
        backend.set_reply_ack_flag(self.protocol & VhostUserProtocolFeatures::REPLY_ACK.bits() != 0);
        backend.set_shmem_flag(self.protocol & VhostUserProtocolFeatures::SHMEM.bits() != 0);
        self.device.set_backend_req_fd(backend);
    }

    fn set_gpu_socket(&mut self, _backend: GpuBackend) -> Result<()> {
        Err(refused("this is no GPU"))
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        Err(refused("there are no shared objects"))
    }

    fn get_inflight_fd(&mut self, asked: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        let queues = usize::from(asked.num_queues);
        if queues > self.rings.len() || usize::from(asked.queue_size) > QUEUE_SIZE {
            return Err(refused("more queues, or longer ones, than there are"));
        }
        let (region, file) = Region::new(queues, asked.queue_size).map_err(Error::ReqHandlerError)?;
        let len = region.len();
        self.take_region(region);
        Ok((VhostUserInflight::new(len, 0, asked.num_queues, asked.queue_size), file))
    }

    fn set_inflight_fd(&mut self, given: &VhostUserInflight, file: File) -> Result<()> {
        let queues = usize::from(given.num_queues);
        if queues > self.rings.len() || usize::from(given.queue_size) > QUEUE_SIZE {
            return Err(refused("more queues, or longer ones, than there are"));
        }
        let place = inflight::Place { len: given.mmap_size, offset: given.mmap_offset };
        let region = Region::open(file, place, queues, given.queue_size).map_err(Error::ReqHandlerError)?;
        self.take_region(region);
        Ok(())
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(MEMORY_SLOTS)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        postcopy: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        if postcopy.is_some() {
            return Err(Error::InvalidOperation("there is no migration after the copy"));
        }
        let piece = Arc::new(self.piece(region.mmap_region(file)?, region.guest_phys_addr)?);
        let memory = self.device.memory.memory().insert_region(piece).map_err(failed)?;
        self.replace_memory(memory)?;
        self.mappings.push(Mapping {
            there: region.user_addr,
            size: region.memory_size,
            guest: region.guest_phys_addr,
        });
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        let address = GuestAddress(region.guest_phys_addr);
        let memory = self.device.memory.memory();
        let (memory, _) = memory.remove_region(address, region.memory_size).map_err(failed)?;
        self.replace_memory(memory)?;
        self.mappings.retain(|mapping| mapping.guest != region.guest_phys_addr);
        Ok(())
    }

    fn set_device_state_fd(
        &mut self,
        direction: VhostTransferStateDirection,
        phase: VhostTransferStatePhase,
        file: File,
    ) -> Result<Option<File>> {
        if self.protocol & VhostUserProtocolFeatures::DEVICE_STATE.bits() == 0 {
            return Err(refused("it was not agreed on that the state of the device can be moved"));
        }
        self.device.set_device_state_fd(direction, phase, file).map(|()| None).map_err(Error::ReqHandlerError)
    }

    fn check_device_state(&mut self) -> Result<()> {
        self.device.check_device_state().map_err(Error::ReqHandlerError)
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        Ok(self.device.get_shmem_config())
    }

    fn set_log_base(&mut self, place: &VhostUserLog, file: File) -> Result<()> {
        let log = Log::open(file, (place.mmap_size, place.mmap_offset)).map_err(Error::ReqHandlerError)?;
        let memory = self.device.memory.memory();
        let end = memory.last_addr().0.saturating_add(1);
        if memory.num_regions() > 0 && !log.covers(end) {
            let len = place.mmap_size;
            tracing::error!(
                len,
                end,
                "the monitor gave a log that is too short for the guest's memory: refused"
            );
            return Err(refused("the log of written pages is too short for the guest's memory"));
        }
        self.device.shared.dirty.replace(Some(log));
        Ok(())
    }
}

impl<F: FileSystem> Handler<F> {
    fn take_region(&self, region: Region) {
        let region = Arc::new(region);
        for (index, queue) in self.device.shared.queues.iter().enumerate() {
            queue.track(inflight::Track::new(&region, index));
        }
    }

    /// A piece of the guest's memory, if all of it is there.
    fn piece(&self, region: MmapRegion, at: u64) -> Result<GuestRegionMmap> {
        backed::check(&region, self.device.shared.is_alone()).map_err(Error::ReqHandlerError)?;
        GuestRegionMmap::new(region, GuestAddress(at)).ok_or(refused("memory that is too long"))
    }
}
