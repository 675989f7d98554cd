//! The socket that the device asks the monitor by. The crate that reads messages keeps it to itself, and waits there for answers for as
//! long as they take: whoever is to end that needs a descriptor of his own.

use rustix::{
    fd::OwnedFd,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recv, recvmsg},
};
use std::{io::IoSliceMut, mem::MaybeUninit, os::unix::net::UnixStream};
use vhost::vhost_user::message::FrontendReq;

/// How long the head of a message is: what is asked, flags, how long the rest is.
const HEAD: usize = 12;

/// Wait for the monitor's next message. If that brings the socket, a descriptor of it: the message stays to be read.
pub(crate) fn peek(stream: &UnixStream) -> Option<UnixStream> {
    let mut head = [0; HEAD];
    let (_, len) = recv(stream, &mut head, RecvFlags::PEEK).ok()?;
    let [a, b, c, d, ..] = head;
    if len < HEAD || u32::from_ne_bytes([a, b, c, d]) != u32::from(FrontendReq::SET_BACKEND_REQ_FD) {
        return None;
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::PEEK | RecvFlags::CMSG_CLOEXEC;
    recvmsg(stream, &mut [IoSliceMut::new(&mut head)], &mut control, flags).ok()?;
    let socket: Option<OwnedFd> = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    socket.map(UnixStream::from)
}
