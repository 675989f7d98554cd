//! What the fuzz targets do with their input. Here and not in the targets, because a test of the crate `fusewire` runs it
//! too, on a stable compiler and for a few seconds.

#[path = "../../crates/fusewire/tests/support/mod.rs"]
mod support;

use fusewire::{
    InitFlags,
    abi::{self, InHeader, Opcode},
    limits,
    proto::{
        Message,
        decode::{Op, decode},
        negotiate::{Bounds, Negotiation, negotiate},
        op,
        operations::{Answer, Operation},
    },
    types::Name,
};
use support::{
    local::{LocalSlot, at_once, session_with},
    quiet::Quiet,
};
use zerocopy::{FromBytes, IntoBytes};

/// Bits of the first byte of the input for [`dispatch`].
mod how {
    /// The request goes as it is; otherwise its length is put right first.
    pub const LENGTH_AS_IT_IS: u8 = 1;
    /// `SETXATTR_EXT` was not agreed on: SETXATTR has its short form.
    pub const SHORT_SETXATTR: u8 = 2;
}

/// The first byte says how, the rest is a request as it is read from `/dev/fuse`.
pub fn dispatch(data: &[u8]) {
    let Some((&how, request)) = data.split_first() else { return };
    let mut request = request.to_vec();
    if how & how::LENGTH_AS_IT_IS == 0 && request.len() >= size_of::<InHeader>() {
        let len = request.len() as u32;
        request[..4].copy_from_slice(&len.to_ne_bytes());
    }
    let without = if how & how::SHORT_SETXATTR != 0 { InitFlags::SETXATTR_EXT } else { InitFlags::empty() };
    let session = session_with(Quiet, InitFlags::all() - without);
    let Ok(message) = Message::split(&request, session.agreed().flags) else { return };
    assert_eq!(size_of::<InHeader>() + message.args.len() + message.payload.len(), request.len());
    let op = decode(&message);
    if let Ok(op) = &op {
        assert!(!format!("{op:?}").is_empty());
        check(op);
    }
    let row = Operation::of(message.header.opcode);
    let (opcode, interrupt) = (message.header.opcode, matches!(op, Ok(Op::Interrupt(_))));
    let (answered, room) = (row.is_none_or(Operation::is_answered), room(&message));
    let refused = op.as_ref().err().copied();
    let requests = [request.clone()];
    let mut slot = LocalSlot::new(session.agreed(), &requests, 1);
    at_once(session.serve(&mut slot));
    assert_eq!(session.stats().panics, 0, "opcode {opcode} panicked");
    let area = session.agreed().reply_area();
    match slot.answer() {
        None => assert!(!answered || interrupt, "opcode {opcode} got no answer"),
        Some(Err(errno)) => {
            assert!(answered || interrupt, "opcode {opcode} was answered");
            assert!((1..512).contains(&errno.raw_os_error()));
            assert!(refused.is_none_or(|refused| refused == errno));
        }
        Some(Ok(len)) => {
            assert!(answered && refused.is_none(), "opcode {opcode} was answered with success");
            match row.expect("it was decoded").answer {
                Answer::None => panic!("opcode {opcode} was answered"),
                Answer::Empty => assert_eq!(len, 0),
                Answer::Fixed(size) => assert_eq!(len, size),
                Answer::Data => {
                    assert!(len <= area && room.is_none_or(|room| len <= room), "{len} for {room:?}")
                }
            }
        }
    }
}

/// How much a caller has room for, where the request says so.
fn room(message: &Message<'_>) -> Option<usize> {
    let size = |at: usize| {
        let bytes = message.args.get(at..at + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?) as usize)
    };
    match Opcode::from_raw(message.header.opcode)? {
        Opcode::Read | Opcode::Readdir | Opcode::Readdirplus => size(16),
        // Asked for the length alone, eight bytes are answered.
        Opcode::Getxattr | Opcode::Listxattr => size(0).map(|size| if size == 0 { 8 } else { size }),
        Opcode::Ioctl => size(28).map(|size| size.saturating_add(16)),
        _ => None,
    }
}

/// What a filesystem may rely on.
fn check(op: &Op<'_>) {
    let component = |name: &Name<'_>| {
        let bytes = name.as_bytes();
        assert!(!bytes.is_empty() && bytes != b"." && bytes != b".." && bytes.len() <= limits::NAME_MAX);
        assert!(!bytes.contains(&b'/') && !bytes.contains(&0));
    };
    match op {
        Op::Lookup(op::Lookup { name, .. })
        | Op::Symlink(op::Symlink { name, .. })
        | Op::Mknod(op::Mknod { name, .. })
        | Op::Mkdir(op::Mkdir { name, .. })
        | Op::Unlink(op::Unlink { name, .. })
        | Op::Rmdir(op::Rmdir { name, .. })
        | Op::Create(op::Create { name, .. })
        | Op::Link(op::Link { new_name: name, .. }) => component(name),
        Op::Rename(op::Rename { name, new_name, .. }) => {
            component(name);
            component(new_name);
        }
        Op::Setxattr(op) => assert!(op.value.len() <= limits::XATTR_SIZE_MAX && !op.name.is_empty()),
        Op::Getlk(op) => assert!(op.lock.start <= op.lock.end),
        Op::Setlk(op) => assert!(op.lock.start <= op.lock.end),
        _ => {}
    }
}

/// Eight bytes of wishes, eight of bounds, then INIT without its header.
pub fn init(data: &[u8]) {
    let Ok((wishes, rest)) = u64::read_from_prefix(data) else { return };
    let Ok((bounds, rest)) = u64::read_from_prefix(rest) else { return };
    let bounds = Bounds {
        max_write: bounds as u32,
        max_pages_limit: (bounds >> 32) as u16,
        default_permissions: bounds >> 48 & 1 != 0,
        ring: bounds >> 49 & 1 != 0,
    };
    let (args, payload) = rest.split_at(rest.len().min(16));
    let mut offered = InitFlags::empty();
    let outcome = negotiate(args, payload, bounds, |config| {
        offered = config.offered();
        config.want(InitFlags::from_bits_truncate(wishes));
        config.max_write = wishes as u32;
        config.max_readahead = (wishes >> 16) as u32;
        config.request_timeout = wishes as u16;
        config.max_stack_depth = (wishes & 3) as u32;
        Ok(())
    });
    let Ok(Negotiation::Agreed(out, agreed, refused)) = outcome else { return };
    assert!(offered.contains(agreed.flags), "{:?} was not offered", agreed.flags - offered);
    assert_eq!(out.init_flags(), agreed.flags, "the kernel will read other flags");
    assert!(
        refused.iter().all(|refused| !agreed.flags.intersects(refused.flag) && !refused.reason.is_empty())
    );
    assert_eq!((out.major, out.minor), (abi::KERNEL_VERSION, agreed.minor));
    assert!((limits::MIN_MINOR..=abi::KERNEL_MINOR_VERSION).contains(&agreed.minor));
    assert!((limits::MIN_WRITE..=limits::MAX_WRITE_EVER).contains(&agreed.max_write));
    assert!(usize::from(agreed.max_pages) * 4096 >= agreed.max_write as usize);
    assert!(agreed.reply_area() >= agreed.max_write as usize && agreed.reply_area() >= limits::MIN_REPLY);
    assert_eq!(out.as_bytes().len(), 64);
}
