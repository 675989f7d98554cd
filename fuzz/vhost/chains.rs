//! Descriptors: anything at all, and requests that are cut into pieces in odd ways but rightly.

use super::{PATIENCE, ROOT, World};
use arbitrary::{Result, Unstructured};
use fusewire::abi::{self, InHeader, Opcode};
use fusewire_vhost::kit::{
    Layout, Ring,
    ring::{Descriptor, INDIRECT, NEXT, WRITE},
};
use std::{cell::RefCell, collections::BTreeSet, time::Duration};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};
use zerocopy::IntoBytes;

const SIZE: u16 = 32;
/// Requests lie at the beginning of this, tables in its middle, answers at its end.
const ARENA: u64 = 64 << 10;
const TABLES: u64 = 16 << 10;
const ANSWERS: u64 = 32 << 10;
/// What the arena is filled with.
const FILL: u8 = 0xa5;

fn new_world() -> World {
    World::new(Layout {
        queues: 2,
        size: SIZE,
        depth: 1,
        data: ARENA as u32,
        indirect: true,
        ..Layout::default()
    })
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Either kind of chain.
pub fn run(data: &[u8]) {
    WORLD.with_borrow_mut(|world| {
        let world = world.get_or_insert_with(new_world);
        let mut u = Unstructured::new(data);
        if u.ratio(1, 4).unwrap_or(false) {
            _ = pieces(world, &mut u);
        } else {
            _ = anything(world, &mut u);
            world.guest.monitor.restart(1).expect("the queue starts anew");
        }
        world.check();
    });
}

/// Where a descriptor points.
fn address(ring: &Ring, arena: u64, u: &mut Unstructured<'_>) -> Result<u64> {
    let end = ring.memory.last_addr().0;
    Ok(match u.int_in_range(0..=15)? {
        0..=3 => arena + u64::from(u.int_in_range(0..=3u8)?) * 128,
        4..=6 => arena + TABLES + u64::from(u.int_in_range(0..=7u8)?) * 16,
        7..=10 => arena + ANSWERS + u64::from(u.arbitrary::<u16>()? / 4),
        11 => ring.table.0 + u64::from(u.arbitrary::<u8>()?),
        12 => ring.avail().0 + u64::from(u.arbitrary::<u8>()?),
        13 => ring.used().0 + u64::from(u.arbitrary::<u8>()?),
        14 => end - u64::from(u.arbitrary::<u8>()?),
        _ => u.arbitrary()?,
    })
}

fn descriptor(ring: &Ring, arena: u64, u: &mut Unstructured<'_>) -> Result<Descriptor> {
    let address = address(ring, arena, u)?;
    let len = match u.int_in_range(0..=7)? {
        0 => *u.choose(&[0, 1, 7, 15, 16, 39, 40, 41, 48, 1 << 20, 1 << 31, u32::MAX])?,
        1 => u.arbitrary()?,
        2 | 3 => 16 * u.int_in_range(0..=40)?,
        4 | 5 => *u.choose(&[40, 48, 56, 64, 80, 128])?,
        _ => u.int_in_range(0..=8192)?,
    };
    let flags = match u.int_in_range(0..=7)? {
        0 => u.arbitrary()?,
        1 => INDIRECT,
        2 => INDIRECT | NEXT,
        3 | 4 => NEXT,
        5 => NEXT | WRITE,
        6 => WRITE,
        _ => 0,
    };
    let next = match u.int_in_range(0..=7)? {
        0 => u.arbitrary()?,
        _ => u.int_in_range(0..=SIZE)?,
    };
    Ok(Descriptor::new(address, len, flags, next))
}

/// A request's header and some arguments.
fn request(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let opcode = match u.int_in_range(0..=3)? {
        0 => u.arbitrary()?,
        1 => Opcode::Getattr as u32,
        2 => *u.choose(&[Opcode::Write as u32, Opcode::Read as u32, Opcode::Lookup as u32])?,
        _ => *u.choose(Opcode::ALL)? as u32,
    };
    let len = match u.int_in_range(0..=3)? {
        0 => u.arbitrary()?,
        _ => u.int_in_range(40..=120)?,
    };
    let header = InHeader { len, opcode, unique: 2, nodeid: ROOT, ..InHeader::default() };
    let rest: [u8; 80] = u.arbitrary()?;
    Ok([header.as_bytes(), &rest].concat())
}

/// Whatever lies in table and rings: no more comes back than was put there, and the queue starts anew afterwards.
fn anything(world: &mut World, u: &mut Unstructured<'_>) -> Result<()> {
    let driver = world.guest.monitor.driver();
    let arena = driver.data(0).0;
    let ring = &mut driver.ring;
    for at in 0..4 {
        ring.memory.write_slice(&request(u)?, GuestAddress(arena + at * 128)).expect("memory");
    }
    for index in 0..u.int_in_range(1..=SIZE)? {
        let descriptor = descriptor(ring, arena, u)?;
        ring.describe(index, descriptor);
    }
    for index in 0..u.int_in_range(0..=40u64)? {
        let descriptor = descriptor(ring, arena, u)?;
        ring.write(arena + TABLES + 16 * index, descriptor);
    }
    let mut heads = BTreeSet::new();
    for _ in 0..u.int_in_range(1..=8)? {
        let head = u.int_in_range(0..=SIZE)?;
        ring.add(head);
        heads.insert(head);
    }
    let is_odd = u.ratio(1, 16)?;
    if is_odd {
        ring.publish(u.arbitrary()?);
    }
    _ = ring.kick.write(1);
    // Descriptors may make the device write into the rings, which says nothing then.
    let mut came = 0;
    while came <= SIZE && ring.wait(Duration::from_millis(if came == 0 { 4 } else { 1 })).is_some() {
        came += 1;
        if ring.is_settled() {
            break;
        }
    }
    Ok(())
}

/// A list of places that bytes are cut at.
fn cuts(len: usize, u: &mut Unstructured<'_>) -> Result<Vec<usize>> {
    let mut cuts: Vec<usize> =
        (0..u.int_in_range(0..=5)?).map(|_| u.int_in_range(0..=len)).collect::<Result<_>>()?;
    cuts.extend([0, len]);
    cuts.sort_unstable();
    Ok(cuts)
}

/// GETATTR or READDIR, cut into pieces that lie apart from each other, perhaps in a table: the answer is the same as of whole ones, and
/// no byte beside it is touched.
fn pieces(world: &mut World, u: &mut Unstructured<'_>) -> Result<()> {
    world.guest.lives();
    let driver = world.guest.monitor.driver();
    let expected = driver.getattr(ROOT).expect("attributes");
    let arena = driver.data(0).0;
    let ring = &mut driver.ring;
    ring.memory.write_slice(&vec![FILL; ARENA as usize], GuestAddress(arena)).expect("memory");
    let len = (size_of::<InHeader>() + size_of::<abi::GetattrIn>()) as u32;
    let header =
        InHeader { len, opcode: Opcode::Getattr as u32, unique: 8, nodeid: ROOT, ..Default::default() };
    let request = [header.as_bytes(), abi::GetattrIn::default().as_bytes()].concat();
    let answer = size_of::<abi::OutHeader>() + size_of::<abi::AttrOut>();
    // Pieces are so far apart, all of them.
    let gap = u.int_in_range(1..=64)?;
    let (mut at, mut chain, mut written) = (arena, Vec::new(), Vec::new());
    for cut in cuts(request.len(), u)?.windows(2) {
        ring.memory.write_slice(&request[cut[0]..cut[1]], GuestAddress(at)).expect("memory");
        chain.push((at, cut[1] - cut[0], 0));
        at += (cut[1] - cut[0] + gap) as u64;
    }
    at = arena + ANSWERS;
    for cut in cuts(answer, u)?.windows(2) {
        chain.push((at, cut[1] - cut[0], WRITE));
        written.push(at - arena - ANSWERS..at - arena - ANSWERS + (cut[1] - cut[0]) as u64);
        at += (cut[1] - cut[0] + gap) as u64;
    }
    let (table, count) = (u.arbitrary::<bool>()?, chain.len() as u16);
    // A table may also follow pieces that are not in it.
    let outside = if table { u.int_in_range(0..=count - 1)? } else { count };
    for (index, (address, len, flags)) in chain.into_iter().enumerate() {
        let index = index as u16;
        let is_last = index + 1 == count;
        let flags = if is_last { flags } else { flags | NEXT };
        if index < outside {
            ring.describe(index, Descriptor::new(address, len as u32, flags, index + 1));
        } else {
            let place = index - outside;
            let descriptor = Descriptor::new(address, len as u32, flags, place + 1);
            ring.write(arena + TABLES + 16 * u64::from(place), descriptor);
        }
    }
    if table {
        let len = u32::from(count - outside) * 16;
        ring.describe(outside, Descriptor::new(arena + TABLES, len, INDIRECT, 0));
    }
    ring.add(0);
    ring.kick();
    let used = ring.wait(PATIENCE).expect("an answer");
    assert_eq!(used.head, 0);
    let mut bytes = vec![0; (ARENA - ANSWERS) as usize];
    ring.memory.read_slice(&mut bytes, GuestAddress(arena + ANSWERS)).expect("memory");
    let mut whole = Vec::new();
    for range in &written {
        let range = range.start as usize..range.end as usize;
        whole.extend_from_slice(&bytes[range.clone()]);
        bytes[range].fill(FILL);
    }
    assert!(bytes.iter().all(|&byte| byte == FILL), "bytes beside the answer were written");
    // An empty piece counts as broken: the chain came back without an answer.
    if used.len == 0 {
        assert!(whole.iter().all(|&byte| byte == FILL), "an answer of no length was written");
        return Ok(());
    }
    assert_eq!(used.len as usize, answer);
    let at = size_of::<abi::OutHeader>() + size_of::<abi::AttrOut>() - size_of::<abi::Attr>();
    assert_eq!(&whole[at..], expected.as_bytes(), "attributes, in pieces");
    Ok(())
}
