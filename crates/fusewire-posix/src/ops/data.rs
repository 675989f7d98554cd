//! Content of files: read and write in all forms, sizes, holes, copies.

use super::{Args, Done, Operation, Trouble, wrong};
use crate::sys;
use crate::value::Value;
use crate::words;
use crate::world::World;
use rustix::io::ReadWriteFlags;
use std::io::{IoSlice, IoSliceMut};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::new("read", "fd len", "one read; answers the bytes", read),
    Operation::new(
        "write",
        "fd data",
        "one write; must take everything unless `expect` says how much",
        write,
    ),
    Operation::new("pread", "fd at len", "one pread; answers the bytes", pread),
    Operation::new(
        "pwrite",
        "fd at data",
        "one pwrite; must take everything unless `expect` says how much",
        pwrite,
    ),
    Operation::new("readv", "fd len parts", "one readv into buffers of `len` bytes, `parts` of them", readv),
    Operation::new("writev", "fd parts", "one writev of a list of strings", writev),
    Operation::new("preadv2", "fd at len flags?", "preadv2 with RWF flags; answers the bytes", preadv2),
    Operation::new("pwritev2", "fd at data flags?", "pwritev2 with RWF flags", pwritev2),
    Operation::new("content", "path", "the whole content of a file", content),
    Operation::new(
        "lseek",
        "fd at whence",
        "lseek: set, cur, end, data, hole, or a number; answers the offset",
        lseek,
    ),
    Operation::new("truncate", "path size", "truncate", truncate),
    Operation::new("ftruncate", "fd size", "ftruncate", ftruncate),
    Operation::new("fallocate", "fd at len flags?", "fallocate with FALLOC_FL flags", fallocate),
    Operation::new(
        "copy-range",
        "from to len from-at? to-at?",
        "copy_file_range until done; answers the bytes copied",
        copy_range,
    ),
    Operation::new("copy-range-once", "from to len from-at? to-at?", "one copy_file_range", copy_range_once),
    Operation::new("clone", "from to", "FICLONE of a whole file", clone),
    Operation::new(
        "sendfile",
        "from to len from-at?",
        "sendfile until done; answers the bytes sent",
        sendfile,
    ),
    Operation::new(
        "splice",
        "from to len",
        "file to file through a pipe with splice; answers the bytes",
        splice,
    ),
    Operation::new("pipe", "reader writer", "a pipe; both ends are kept under these names", pipe),
    Operation::new("limit-file-size", "size", "RLIMIT_FSIZE, for the rest of the case", limit_file_size),
];

fn read(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let mut buffer = vec![0; args.len("len")?];
    let got = rustix::io::read(world.arg_fd(args, "fd")?, &mut buffer[..])?;
    buffer.truncate(got);
    Ok(Value::Bytes(buffer))
}

/// A write's count: short ones are wrong unless the case expects a number.
fn written(args: &Args<'_>, wanted: usize, got: usize) -> Done {
    if got != wanted && args.step.expect.is_none() {
        return wrong(format!("{wanted} bytes written"), format!("{got} bytes written"));
    }
    Ok(Value::Int(got as i128))
}

fn write(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let data = args.bytes("data")?;
    let got = rustix::io::write(world.arg_fd(args, "fd")?, &data)?;
    written(args, data.len(), got)
}

fn pread(world: &mut World<'_>, args: &Args<'_>) -> Done {
    Ok(Value::Bytes(sys::pread(world.arg_fd(args, "fd")?, args.len("len")?, args.int("at")?)?))
}

fn pwrite(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let data = args.bytes("data")?;
    let got = sys::pwrite(world.arg_fd(args, "fd")?, &data, args.int("at")?)?;
    written(args, data.len(), got)
}

fn readv(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let (len, parts) = (args.len("len")?, args.len("parts")?);
    let mut buffers = vec![vec![0; len]; parts];
    let mut slices: Vec<_> = buffers.iter_mut().map(|b| IoSliceMut::new(b)).collect();
    let got = rustix::io::readv(world.arg_fd(args, "fd")?, &mut slices)?;
    let mut data = buffers.concat();
    data.truncate(got);
    Ok(Value::Bytes(data))
}

fn writev(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let parts = args.list("parts")?;
    let slices: Vec<_> = parts.iter().map(|p| IoSlice::new(p)).collect();
    let got = rustix::io::writev(world.arg_fd(args, "fd")?, &slices)?;
    written(args, parts.iter().map(Vec::len).sum(), got)
}

fn preadv2(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let mut buffer = vec![0; args.len("len")?];
    let flags = ReadWriteFlags::from_bits_retain(args.flags()? as u32);
    let at = args.int("at")? as u64;
    let got = rustix::io::preadv2(world.arg_fd(args, "fd")?, &mut [IoSliceMut::new(&mut buffer)], at, flags)?;
    buffer.truncate(got);
    Ok(Value::Bytes(buffer))
}

fn pwritev2(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let data = args.bytes("data")?;
    let flags = ReadWriteFlags::from_bits_retain(args.flags()? as u32);
    let at = args.int("at")? as u64;
    let got = rustix::io::pwritev2(world.arg_fd(args, "fd")?, &[IoSlice::new(&data)], at, flags)?;
    written(args, data.len(), got)
}

fn content(_: &mut World<'_>, args: &Args<'_>) -> Done {
    use std::os::unix::ffi::OsStrExt;
    let path = args.bytes("path")?;
    Ok(Value::Bytes(std::fs::read(std::ffi::OsStr::from_bytes(&path))?))
}

fn lseek(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let whence = match args.text("whence")?.as_str() {
        "set" => libc::SEEK_SET,
        "cur" => libc::SEEK_CUR,
        "end" => libc::SEEK_END,
        "data" => libc::SEEK_DATA,
        "hole" => libc::SEEK_HOLE,
        other => other.parse().map_err(|_| Trouble::Case(format!("no whence is called `{other}`")))?,
    };
    Ok(Value::Int(i128::from(sys::lseek(world.arg_fd(args, "fd")?, args.int("at")?, whence)?)))
}

fn truncate(_: &mut World<'_>, args: &Args<'_>) -> Done {
    sys::truncate(&args.bytes("path")?, args.int("size")?)?;
    Ok(Value::Unit)
}

fn ftruncate(world: &mut World<'_>, args: &Args<'_>) -> Done {
    sys::ftruncate(world.arg_fd(args, "fd")?, args.int("size")?)?;
    Ok(Value::Unit)
}

fn fallocate(world: &mut World<'_>, args: &Args<'_>) -> Done {
    sys::fallocate(world.arg_fd(args, "fd")?, args.flags()? as i32, args.int("at")?, args.int("len")?)?;
    Ok(Value::Unit)
}

fn copy_once(
    world: &World<'_>,
    args: &Args<'_>,
    places: (&mut Option<u64>, &mut Option<u64>),
    len: usize,
) -> Result<usize, Trouble> {
    let (from, to) = (world.arg_fd(args, "from")?, world.arg_fd(args, "to")?);
    Ok(rustix::fs::copy_file_range(from, places.0.as_mut(), to, places.1.as_mut(), len)?)
}

fn copy_range_once(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let mut from_at = args.opt_int("from-at")?.map(|n| n as u64);
    let mut to_at = args.opt_int("to-at")?.map(|n| n as u64);
    Ok(Value::Int(copy_once(world, args, (&mut from_at, &mut to_at), args.len("len")?)? as i128))
}

fn copy_range(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let mut from_at = args.opt_int("from-at")?.map(|n| n as u64);
    let mut to_at = args.opt_int("to-at")?.map(|n| n as u64);
    let len = args.len("len")?;
    let mut done = 0;
    while done < len {
        match copy_once(world, args, (&mut from_at, &mut to_at), len - done)? {
            0 => break,
            n => done += n,
        }
    }
    Ok(Value::Int(done as i128))
}

fn clone(world: &mut World<'_>, args: &Args<'_>) -> Done {
    rustix::fs::ioctl_ficlone(world.arg_fd(args, "to")?, world.arg_fd(args, "from")?)?;
    Ok(Value::Unit)
}

fn sendfile(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let mut at = args.opt_int("from-at")?.map(|n| n as u64);
    let (from, to, len) = (world.arg_fd(args, "from")?, world.arg_fd(args, "to")?, args.len("len")?);
    let mut done = 0;
    while done < len {
        match rustix::fs::sendfile(to, from, at.as_mut(), len - done)? {
            0 => break,
            n => done += n,
        }
    }
    Ok(Value::Int(done as i128))
}

fn splice(world: &mut World<'_>, args: &Args<'_>) -> Done {
    use rustix::pipe::SpliceFlags;
    let (from, to, len) = (world.arg_fd(args, "from")?, world.arg_fd(args, "to")?, args.len("len")?);
    let (reader, writer) = rustix::pipe::pipe()?;
    let mut done = 0;
    while done < len {
        let mut piece =
            rustix::pipe::splice(from, None, &writer, None, (len - done).min(65536), SpliceFlags::empty())?;
        if piece == 0 {
            break;
        }
        done += piece;
        while piece > 0 {
            match rustix::pipe::splice(&reader, None, to, None, piece, SpliceFlags::empty())? {
                0 => return wrong("bytes spliced to the file", "splice gave 0"),
                n => piece -= n,
            }
        }
    }
    Ok(Value::Int(done as i128))
}

fn pipe(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    world.fds.insert(args.text("reader")?, reader);
    world.fds.insert(args.text("writer")?, writer);
    Ok(Value::Unit)
}

fn limit_file_size(_: &mut World<'_>, args: &Args<'_>) -> Done {
    sys::catch(words::signal("SIGXFSZ").unwrap_or(libc::SIGXFSZ))?;
    sys::limit_file_size(args.len("size")? as u64)?;
    Ok(Value::Unit)
}
