//! What a monitor does when its device is gone and comes back, and when its guest moves to another machine.

use super::{Monitor, negotiate, other};
use std::{
    fs::File,
    io::{self, Read, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
};
use vhost::{
    VhostBackend, VhostUserMemoryRegionInfo,
    vhost_user::{
        Frontend, VhostUserFrontend,
        message::{
            VhostTransferStateDirection as Direction, VhostTransferStatePhase as Phase, VhostUserInflight,
            VhostUserProtocolFeatures,
        },
    },
};
use vm_memory::GuestMemoryBackend;

/// Memory that the device has given to the monitor to keep.
pub struct Inflight {
    /// What it is, as the device says.
    pub place: VhostUserInflight,
    /// The memory.
    pub file: File,
}

impl std::fmt::Debug for Inflight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflight").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Inflight {
    /// That of a device, if it has any.
    pub(super) fn of(frontend: &mut Frontend, queues: u16, size: u16) -> io::Result<Option<Self>> {
        let offered = frontend.get_protocol_features().map_err(other)?;
        if !offered.contains(VhostUserProtocolFeatures::INFLIGHT_SHMFD) {
            return Ok(None);
        }
        let asked = VhostUserInflight::new(0, 0, queues, size);
        let (place, file) = frontend.get_inflight_fd(&asked).map_err(other)?;
        Ok(Some(Self { place, file }))
    }
}

impl Monitor {
    /// Connect to a device that takes the place of the one there was. The guest goes on with its rings and notices nothing. With
    /// `keeps` false, the device is not told what was under way, as monitors do that do not know of it.
    ///
    /// # Errors
    /// Whatever the device refuses.
    pub fn reconnect(&mut self, stream: UnixStream, keeps: bool) -> io::Result<()> {
        self.reconnect_with(stream, keeps, None)
    }

    /// The same with the state that another device has saved.
    ///
    /// # Errors
    /// Whatever the device refuses.
    pub fn arrive(&mut self, stream: UnixStream, state: &[u8]) -> io::Result<()> {
        self.reconnect_with(stream, false, Some(state))
    }

    fn reconnect_with(&mut self, stream: UnixStream, keeps: bool, state: Option<&[u8]>) -> io::Result<()> {
        let queues = self.drivers.len() as u64;
        self.frontend = Frontend::from_stream(stream, queues);
        self.frontend.set_owner().map_err(other)?;
        self.features = negotiate(&mut self.frontend, self.layout)?;
        let region = self.memory.iter().next().ok_or_else(|| other("no memory"))?;
        let region = VhostUserMemoryRegionInfo::from_guest_region(region).map_err(other)?;
        self.frontend.set_mem_table(&[region]).map_err(other)?;
        match &self.inflight {
            Some(inflight) if keeps => {
                self.frontend.set_inflight_fd(&inflight.place, inflight.file.as_raw_fd()).map_err(other)?;
            }
            _ => {}
        }
        state.map_or(Ok(()), |state| send(&mut self.frontend, state))?;
        for queue in 0..self.drivers.len() {
            // As QEMU has it, whose device is gone: what it has answered last.
            let base = self.drivers[queue].ring.answered();
            self.attach(queue, base)?;
        }
        Ok(())
    }

    /// Reset the device, and start it anew for a guest that begins anew, too: nothing is known of its rings.
    ///
    /// # Errors
    /// Whatever the device refuses.
    pub fn reset(&mut self) -> io::Result<()> {
        self.frontend.reset_device().map_err(other)?;
        self.features = negotiate(&mut self.frontend, self.layout)?;
        self.reboot()?;
        (0..self.drivers.len()).try_for_each(|queue| self.attach(queue, 0))
    }

    /// The guest begins anew while it has no device: its rings are empty.
    ///
    /// # Errors
    /// If it has no memory for them.
    pub fn reboot(&mut self) -> io::Result<()> {
        (0..self.drivers.len()).try_for_each(|queue| self.renew(queue))
    }

    /// Stop all queues. Answers that are there already can still be received.
    ///
    /// # Errors
    /// Whatever the device refuses.
    pub fn stop(&mut self) -> io::Result<()> {
        (0..self.drivers.len())
            .try_for_each(|queue| self.frontend.get_vring_base(queue).map(drop).map_err(other))
    }

    /// The device's state, which has been stopped.
    ///
    /// # Errors
    /// Whatever the device refuses.
    pub fn save(&mut self) -> io::Result<Vec<u8>> {
        let (mut reader, writer) = io::pipe()?;
        let sent = self.frontend.set_device_state_fd(Direction::SAVE, Phase::STOPPED, writer.into());
        sent.map_err(other)?;
        let mut state = Vec::new();
        reader.read_to_end(&mut state)?;
        self.frontend.check_device_state().map_err(other)?;
        Ok(state)
    }
}

/// Give a device the state of another.
///
/// # Errors
/// Whatever the device refuses.
pub fn send(frontend: &mut Frontend, state: &[u8]) -> io::Result<()> {
    let (reader, mut writer) = io::pipe()?;
    let sent = frontend.set_device_state_fd(Direction::LOAD, Phase::STOPPED, reader.into());
    sent.map_err(other)?;
    writer.write_all(state)?;
    drop(writer);
    frontend.check_device_state().map_err(other)
}
