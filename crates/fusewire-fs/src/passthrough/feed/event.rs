//! What fanotify says, taken apart. The layout is that of `struct fanotify_event_metadata` and of the records behind it.

use std::ffi::CStr;

/// One change, or several of the same kind of the same thing.
#[derive(Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// What happened: `FAN_*`.
    pub mask: u64,
    /// Which thread did it.
    pub tid: i32,
    /// Records: what it happened to.
    records: &'a [u8],
}

/// What something happened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object<'a> {
    /// Content of its file handle.
    pub handle: &'a [u8],
    /// The handle is that of a directory, and the thing is this name in it. (A directory itself has the name `.`.)
    pub name: Option<&'a CStr>,
}

const METADATA: usize = 24;
/// Header of a record, number of the filesystem, length and kind of the handle.
const FID: usize = 4 + 8 + 8;

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?).into())
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The events in what was read. What is cut short is left out: the kernel writes whole ones.
pub fn events(mut bytes: &[u8]) -> impl Iterator<Item = Event<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(bytes, 0)? as usize;
        let start = u16_at(bytes, 6)?;
        let (mask, tid) = (u64_at(bytes, 8)?, u32_at(bytes, 20)? as i32);
        let (event, rest) = bytes.split_at_checked(length).filter(|_| length >= METADATA)?;
        bytes = rest;
        Some(Event { mask, tid, records: event.get(start..).unwrap_or_default() })
    })
}

impl<'a> Event<'a> {
    /// What it happened to: a thing by its own handle, a name by its directory's, or both.
    pub fn objects(&self) -> impl Iterator<Item = Object<'a>> {
        let mut records = self.records;
        std::iter::from_fn(move || {
            let length = u16_at(records, 2)?;
            let (record, rest) = records.split_at_checked(length).filter(|_| length >= 4)?;
            records = rest;
            Some(object(record))
        })
        .flatten()
    }
}

fn object(record: &[u8]) -> Option<Object<'_>> {
    let has_name = match record[0] {
        libc::FAN_EVENT_INFO_TYPE_DFID_NAME => true,
        libc::FAN_EVENT_INFO_TYPE_FID | libc::FAN_EVENT_INFO_TYPE_DFID => false,
        _ => return None,
    };
    let length = u32_at(record, 12)? as usize;
    let handle = record.get(FID..)?.get(..length)?;
    let name = match has_name {
        true => Some(CStr::from_bytes_until_nul(&record[FID + length..]).ok()?),
        false => None,
    };
    Some(Object { handle, name })
}

/// What may be an inode number in a handle. Almost every filesystem puts it there, in 32 or 64 bits; what else is there is taken for
/// one too: then somebody who is not concerned asks once more.
pub fn numbers(handle: &[u8]) -> impl Iterator<Item = u64> {
    let narrow = handle.chunks_exact(4).filter_map(|word| u32_at(word, 0)).map(u64::from);
    let wide = handle
        .windows(8)
        .step_by(4)
        .filter_map(|word| u64_at(word, 0))
        .filter(|&number| number > u32::MAX.into());
    narrow.chain(wide).filter(|&number| number != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, handle: &[u8], name: &[u8]) -> Vec<u8> {
        let mut body = vec![0; 8];
        body.extend((handle.len() as u32).to_ne_bytes());
        body.extend(1i32.to_ne_bytes());
        body.extend(handle);
        body.extend(name);
        body.resize(body.len().next_multiple_of(4), 0);
        let mut record = vec![kind, 0];
        record.extend((body.len() as u16 + 4).to_ne_bytes());
        record.extend(body);
        record
    }

    fn event(mask: u64, tid: i32, records: &[Vec<u8>]) -> Vec<u8> {
        let records = records.concat();
        let mut event = ((METADATA + records.len()) as u32).to_ne_bytes().to_vec();
        event.extend([3, 0]);
        event.extend((METADATA as u16).to_ne_bytes());
        event.extend(mask.to_ne_bytes());
        event.extend((-1i32).to_ne_bytes());
        event.extend(tid.to_ne_bytes());
        event.extend(records);
        event
    }

    #[test]
    fn events_are_taken_apart() {
        let both = [
            record(libc::FAN_EVENT_INFO_TYPE_DFID_NAME, &[1; 8], b"name\0"),
            record(libc::FAN_EVENT_INFO_TYPE_FID, &[2; 12], b""),
        ];
        let bytes = [event(libc::FAN_CREATE, 7, &both), event(libc::FAN_Q_OVERFLOW, 0, &[])].concat();
        let seen: Vec<_> = events(&bytes).collect();
        assert_eq!(seen.len(), 2);
        assert_eq!((seen[0].mask, seen[0].tid), (libc::FAN_CREATE, 7));
        let objects: Vec<_> = seen[0].objects().collect();
        let expected =
            [Object { handle: &[1; 8], name: Some(c"name") }, Object { handle: &[2; 12], name: None }];
        assert_eq!(objects, expected);
        assert_eq!((seen[1].mask, seen[1].objects().count()), (libc::FAN_Q_OVERFLOW, 0));
    }

    #[test]
    fn what_is_cut_short_does_no_harm() {
        let whole =
            event(libc::FAN_CREATE, 7, &[record(libc::FAN_EVENT_INFO_TYPE_DFID_NAME, &[1; 8], b"name\0")]);
        for length in 0..whole.len() {
            assert_eq!(
                events(&whole[..length]).flat_map(|event| event.objects().collect::<Vec<_>>()).count(),
                0
            );
        }
        for at in 0..whole.len() {
            let mut broken = whole.clone();
            broken[at] ^= 0xff;
            events(&broken).take(100).for_each(|event| _ = event.objects().take(100).count());
        }
    }

    #[test]
    fn numbers_are_found_wherever_they_are() {
        let handle: Vec<u8> = [9u32, 12, 5].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let found: Vec<_> = numbers(&handle).collect();
        assert!(found.contains(&12) && found.contains(&9));
        if cfg!(target_endian = "little") {
            assert!(found.contains(&(5 << 32 | 12)));
        }
    }
}
