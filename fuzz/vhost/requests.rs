//! Requests that are well packed, and say anything: opcodes, lengths, arguments, names, nodes and handles.

use super::{PATIENCE, ROOT, World, tree::Tree};
use arbitrary::{Result, Unstructured};
use fusewire::{
    InitFlags,
    abi::{self, Opcode},
    proto::{
        Message,
        operations::{Operation, Tail},
    },
};
use fusewire_vhost::kit::{Driver, Layout, Reply};
use std::{cell::RefCell, time::Duration};
use vm_memory::Bytes;
use zerocopy::FromBytes;

/// Most requests of one input.
const REQUESTS: usize = 24;
const DATA: u32 = 16 << 10;

/// What a guest asks for by name, whether it is there or not.
const NAMES: [&[u8]; 30] = [
    b"a\0",
    b"a\0",
    b"dir\0",
    b"link\0",
    b"new\0",
    b"new\0",
    b"newer\0",
    b"dir\0",
    b"b\0",
    b"deep\0",
    b"link\0",
    b"out\0",
    b"up\0",
    b"abs\0",
    b"fifo\0",
    b"new\0",
    b"other\0",
    b"secret\0",
    b"..\0",
    b".\0",
    b"\0",
    b"../secret\0",
    b"/etc/passwd\0",
    b"up/secret\0",
    b"dir/../../secret\0",
    b"no end",
    b"a\0b\0",
    b"user.a\0",
    b"security.capability\0",
    b"system.posix_acl_access\0",
];

const NUMBERS: [u64; 16] = [
    0,
    1,
    2,
    3,
    7,
    0o100644,
    0o40755,
    0o60644,
    4096,
    65536,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// What the guest was told of, and what it makes up.
struct Known {
    nodes: Vec<u64>,
    /// What is open, and of which node.
    open: Vec<(u64, u64)>,
}

impl Known {
    fn word(&self, u: &mut Unstructured<'_>) -> Result<u64> {
        Ok(match u.int_in_range(0..=7)? {
            0..=2 => u.choose(&self.open)?.1,
            3 => *u.choose(&self.nodes)?,
            4 | 5 => *u.choose(&NUMBERS)?,
            6 => u64::from(u.arbitrary::<u16>()?),
            _ => u.arbitrary()?,
        })
    }

    fn node(&self, u: &mut Unstructured<'_>) -> Result<u64> {
        Ok(match u.int_in_range(0..=15)? {
            0 => *u.choose(&NUMBERS)?,
            1 => u.arbitrary()?,
            2..=5 => ROOT,
            _ => *u.choose(&self.nodes)?,
        })
    }

    /// Take in what an answer tells.
    fn learn(&mut self, opcode: u32, of: u64, body: &[u8]) {
        let word = |at: usize| Some(u64::from_ne_bytes(*body.get(at..)?.first_chunk()?));
        let (mut node, mut handle) = (None, None);
        match Opcode::from_raw(opcode) {
            Some(Opcode::Lookup | Opcode::Mknod | Opcode::Mkdir | Opcode::Symlink | Opcode::Link) => {
                node = word(0);
            }
            Some(Opcode::Create | Opcode::Tmpfile) => {
                (node, handle) = (word(0), word(size_of::<abi::EntryOut>()));
            }
            Some(Opcode::Open | Opcode::Opendir) => handle = word(0),
            _ => {}
        }
        self.nodes.extend(node.filter(|&node| node != 0));
        self.open.extend(handle.map(|handle| (node.unwrap_or(of), handle)));
    }
}

/// Everything that lasts from one input to the next.
fn new_world() -> World {
    World::new(Layout { queues: 2, depth: 8, data: DATA, ..Layout::default() })
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// A session, with requests as `data` says.
pub fn run(data: &[u8]) {
    WORLD.with_borrow_mut(|world| {
        let world = world.get_or_insert_with(new_world);
        let driver = world.guest.monitor.driver();
        driver.init().expect("a session");
        driver.caller = (0, 0);
        let mut known = Known { nodes: vec![ROOT], open: vec![(ROOT, 0)] };
        // Something to begin with, unless an earlier input has taken it away.
        if let Ok(file) = driver.lookup(ROOT, c"a").map(|entry| entry.nodeid) {
            known.nodes.push(file);
            known.open.extend(driver.open(file, 2).map(|handle| (file, handle)));
        }
        let mut u = Unstructured::new(data);
        let mut lost = false;
        for _ in 0..REQUESTS {
            if u.is_empty() {
                break;
            }
            let Ok(is_lost) = request(world, &mut known, &mut u) else { break };
            lost |= is_lost;
        }
        if lost {
            world.guest.monitor.restart(1).expect("the queue starts anew");
        }
        world.check();
    });
}

/// Arguments: those of a quiet request with this handle, of which some are changed.
fn args(row: Option<&Operation>, known: &Known, handle: u64, u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let len = row.map_or(0, |row| Message::args_len(row, InitFlags::all()));
    let mut args = vec![0; len];
    if len >= 24 {
        args[..8].copy_from_slice(&handle.to_ne_bytes());
    }
    for _ in 0..u.int_in_range(0..=3)? {
        let word = known.word(u)?;
        let at = u.int_in_range(0..=len / 4)? * 4;
        let bytes = if u.arbitrary()? { &word.to_ne_bytes()[..] } else { &(word as u32).to_ne_bytes() };
        let end = len.min(at + bytes.len());
        args[at.min(len)..end].copy_from_slice(&bytes[..end - at.min(len)]);
    }
    match u.int_in_range(0..=15)? {
        // Not as long as it should be.
        0 => args.truncate(u.int_in_range(0..=len)?),
        _ => args.truncate(len),
    }
    Ok(args)
}

fn tail(row: Option<&Operation>, u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut tail = Vec::new();
    let names = match row.map(|row| row.tail) {
        Some(Tail::None) | None => 0,
        Some(_) => u.int_in_range(1..=2)?,
    };
    for _ in 0..names {
        match u.int_in_range(0..=15)? {
            0 => {
                tail.resize(tail.len() + u.int_in_range(250..=300)?, b'n');
                tail.push(0);
            }
            1 => tail.extend_from_slice(u.bytes(u.len().min(16))?),
            _ => tail.extend_from_slice(u.choose(&NAMES)?),
        }
    }
    Ok(tail)
}

/// Send one request, and look at what comes back. `true` if nothing does.
fn request(world: &mut World, known: &mut Known, u: &mut Unstructured<'_>) -> Result<bool> {
    let opcode = match u.int_in_range(0..=31)? {
        0 => u.arbitrary()?,
        _ => *u.choose(Opcode::ALL)? as u32,
    };
    let row = Operation::of(opcode);
    let (of, handle) = *u.choose(&known.open)?;
    let (mut args, mut tail) = (args(row, known, handle, u)?, tail(row, u)?);
    let node = if args.len() >= 24 && u.ratio(7, 8)? { of } else { known.node(u)? };
    let mut brings = 0;
    if opcode == Opcode::Write as u32 && args.len() >= 20 {
        brings = u.int_in_range(0..=DATA)?;
        if u.int_in_range(0..=7)? > 0 {
            args[16..20].copy_from_slice(&brings.to_ne_bytes());
        }
        tail.clear();
    }
    let takes = match row.map(|row| row.answer) {
        Some(fusewire::proto::operations::Answer::Data) => u.int_in_range(0..=DATA)?,
        _ => 0,
    };
    if takes > 0 && args.len() >= 20 && u.ratio(7, 8)? {
        args[16..20].copy_from_slice(&takes.to_ne_bytes());
    }
    let driver = world.guest.monitor.driver();
    driver.caller = *u.choose(&[(0, 0), (1000, 1000), (u32::MAX, u32::MAX)])?;
    let head = [&args[..], &tail[..]];
    let room = 4096 - size_of::<abi::InHeader>();
    if args.len() + tail.len() > room || !driver.has_room() {
        return Ok(false);
    }
    let frame = driver.send(opcode, node, &head, (brings, takes));
    // Whoever waits for a lock waits.
    let waits = opcode == Opcode::Setlkw as u32;
    let limit = if waits { Duration::from_millis(5) } else { PATIENCE };
    let Some(reply) = driver.receive(limit) else {
        assert!(waits, "opcode {opcode} was never answered");
        return Ok(true);
    };
    // One that waited may have been answered meanwhile.
    look(&world.tree, driver, reply, takes);
    if reply.frame == frame
        && let Ok(body) = driver.body(reply)
    {
        known.learn(opcode, node, &body);
    }
    Ok(false)
}

/// Nothing of what others have is in an answer.
fn look(tree: &Tree, driver: &Driver, reply: Reply, takes: u32) {
    let mut data = vec![0; takes as usize];
    driver.ring.memory.read_slice(&mut data, driver.data(reply.frame)).expect("memory");
    assert!(!tree.is_told(&data), "an answer tells the secret: {reply:?}");
    if let Ok(body) = driver.body(reply) {
        assert!(!tree.is_told(&body), "an answer tells the secret: {reply:?}");
        let entry = abi::EntryOut::read_from_prefix(&body);
        if let Ok((entry, _)) = entry {
            assert_ne!(entry.attr.size, u64::MAX, "a size that no file has");
        }
    }
}
