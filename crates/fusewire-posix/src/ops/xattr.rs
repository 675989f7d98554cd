//! Extended attributes and the access control lists kept in them.

use super::{Args, Done, Operation, Trouble, wrong};
use crate::value::Value;
use crate::world::World;
use rustix::fs::{self, XattrFlags};
use rustix::io::Errno;

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::new("set-xattr", "path name value flags?", "setxattr with XATTR flags", set),
    Operation::new(
        "get-xattr",
        "path name size?",
        "getxattr into `size` bytes (64 KiB); answers the value",
        get,
    ),
    Operation::new("xattr-size", "path name", "getxattr with size 0; answers the size", size),
    Operation::new(
        "list-xattr",
        "path prefix",
        "listxattr, sorted; only names that begin with `prefix`",
        list,
    ),
    Operation::new(
        "list-xattr-into",
        "path size",
        "listxattr into `size` bytes; answers the length",
        list_into,
    ),
    Operation::new("remove-xattr", "path name", "removexattr", remove),
    Operation::new("lset-xattr", "path name value flags?", "lsetxattr", lset),
    Operation::new("lget-xattr", "path name", "lgetxattr", lget),
    Operation::new("fset-xattr", "fd name value", "fsetxattr", fset),
    Operation::new("fget-xattr", "fd name", "fgetxattr", fget),
    Operation::new("fremove-xattr", "fd name", "fremovexattr", fremove),
    Operation::new(
        "set-acl",
        "path kind acl",
        "the `access` or `default` ACL, such as u::rwx,u:65501:r-x,g::r--,m::r-x,o::---",
        set_acl,
    ),
    Operation::new("get-acl", "path kind", "answers the ACL in the same form", get_acl),
    Operation::new("remove-acl", "path kind", "removes the ACL", remove_acl),
];

const LARGEST: usize = 65536;

fn unit(result: rustix::io::Result<()>) -> Done {
    Ok(result.map(|()| Value::Unit)?)
}

fn flags(args: &Args<'_>) -> Result<XattrFlags, Trouble> {
    Ok(XattrFlags::from_bits_retain(args.flags()? as u32))
}

fn set(_: &mut World<'_>, args: &Args<'_>) -> Done {
    unit(fs::setxattr(args.bytes("path")?, args.bytes("name")?, &args.bytes("value")?, flags(args)?))
}

fn lset(_: &mut World<'_>, args: &Args<'_>) -> Done {
    unit(fs::lsetxattr(args.bytes("path")?, args.bytes("name")?, &args.bytes("value")?, flags(args)?))
}

fn fset(world: &mut World<'_>, args: &Args<'_>) -> Done {
    unit(fs::fsetxattr(
        world.arg_fd(args, "fd")?,
        args.bytes("name")?,
        &args.bytes("value")?,
        XattrFlags::empty(),
    ))
}

fn get(_: &mut World<'_>, args: &Args<'_>) -> Done {
    let mut buffer = vec![0; args.opt_int("size")?.map_or(LARGEST, |n| n as usize)];
    let len = fs::getxattr(args.bytes("path")?, args.bytes("name")?, &mut buffer[..])?;
    buffer.truncate(len);
    Ok(Value::Bytes(buffer))
}

fn lget(_: &mut World<'_>, args: &Args<'_>) -> Done {
    let mut buffer = vec![0; LARGEST];
    let len = fs::lgetxattr(args.bytes("path")?, args.bytes("name")?, &mut buffer[..])?;
    buffer.truncate(len);
    Ok(Value::Bytes(buffer))
}

fn fget(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let mut buffer = vec![0; LARGEST];
    let len = fs::fgetxattr(world.arg_fd(args, "fd")?, args.bytes("name")?, &mut buffer[..])?;
    buffer.truncate(len);
    Ok(Value::Bytes(buffer))
}

fn size(_: &mut World<'_>, args: &Args<'_>) -> Done {
    Ok(Value::Int(fs::getxattr_query(args.bytes("path")?, args.bytes("name")?)? as i128))
}

fn list(_: &mut World<'_>, args: &Args<'_>) -> Done {
    let path = args.bytes("path")?;
    let prefix = args.bytes("prefix")?;
    // The size asked for first is an upper bound: overlayfs counts names that it then leaves out.
    let mut buffer = vec![0; fs::listxattr_query(&path)?];
    let len = fs::listxattr(&path, &mut buffer[..])?;
    buffer.truncate(len);
    if len > 0 && buffer[len - 1] != 0 {
        return wrong("a NUL after every name", "a list without NUL at its end");
    }
    let mut names: Vec<Vec<u8>> =
        buffer.split(|b| *b == 0).filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect();
    names.retain(|name| name.starts_with(&prefix));
    names.sort();
    Ok(Value::List(names))
}

fn list_into(_: &mut World<'_>, args: &Args<'_>) -> Done {
    let mut buffer = vec![0; args.len("size")?];
    Ok(Value::Int(fs::listxattr(args.bytes("path")?, &mut buffer[..])? as i128))
}

fn remove(_: &mut World<'_>, args: &Args<'_>) -> Done {
    unit(fs::removexattr(args.bytes("path")?, args.bytes("name")?))
}

fn fremove(world: &mut World<'_>, args: &Args<'_>) -> Done {
    unit(fs::fremovexattr(world.arg_fd(args, "fd")?, args.bytes("name")?))
}

fn acl_name(args: &Args<'_>) -> Result<&'static str, Trouble> {
    match args.text("kind")?.as_str() {
        "access" => Ok("system.posix_acl_access"),
        "default" => Ok("system.posix_acl_default"),
        other => Err(Trouble::Case(format!("no ACL is called `{other}`"))),
    }
}

fn set_acl(_: &mut World<'_>, args: &Args<'_>) -> Done {
    let value = encode_acl(&args.text("acl")?)?;
    unit(fs::setxattr(args.bytes("path")?, acl_name(args)?, &value, XattrFlags::empty()))
}

fn get_acl(_: &mut World<'_>, args: &Args<'_>) -> Done {
    let mut buffer = vec![0; LARGEST];
    let len = fs::getxattr(args.bytes("path")?, acl_name(args)?, &mut buffer[..])?;
    match decode_acl(&buffer[..len]) {
        Some(text) => Ok(Value::Bytes(text.into())),
        None => wrong("an ACL of version 2", crate::words::show_bytes(&buffer[..len])),
    }
}

fn remove_acl(_: &mut World<'_>, args: &Args<'_>) -> Done {
    match fs::removexattr(args.bytes("path")?, acl_name(args)?) {
        // Removing what is not there: filesystems differ between success and ENODATA.
        Ok(()) | Err(Errno::NODATA) => Ok(Value::Unit),
        Err(errno) => Err(errno.into()),
    }
}

/// Version word of the kernel's `struct posix_acl_xattr_header`.
const ACL_VERSION: u32 = 2;
/// Id of entries that name nobody.
const NOBODY: u32 = u32::MAX;
/// Letter, tag without an id, tag with an id (`include/uapi/linux/posix_acl.h`).
const TAGS: [(&str, u16, u16); 4] =
    [("u", 0x01, 0x02), ("g", 0x04, 0x08), ("m", 0x10, 0x10), ("o", 0x20, 0x20)];

fn encode_acl(text: &str) -> Result<Vec<u8>, Trouble> {
    let bad =
        |entry: &str| Trouble::Case(format!("`{entry}` is no ACL entry (u:ID:rwx, g::r-x, m::rwx, o::---)"));
    let mut out = ACL_VERSION.to_le_bytes().to_vec();
    for entry in text.split(',') {
        let parts: Vec<&str> = entry.split(':').collect();
        let [letter, id, rights] = parts[..] else { return Err(bad(entry)) };
        let (_, plain, named) = TAGS.into_iter().find(|t| t.0 == letter).ok_or_else(|| bad(entry))?;
        let who = if id.is_empty() { NOBODY } else { id.parse().map_err(|_| bad(entry))? };
        let bit = |c: char, bit: u16| if rights.contains(c) { bit } else { 0 };
        let tag = if id.is_empty() { plain } else { named };
        out.extend(tag.to_le_bytes());
        out.extend((bit('r', 4) | bit('w', 2) | bit('x', 1)).to_le_bytes());
        out.extend(who.to_le_bytes());
    }
    Ok(out)
}

fn decode_acl(raw: &[u8]) -> Option<String> {
    let (version, rest) = raw.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != ACL_VERSION || rest.len() % 8 != 0 {
        return None;
    }
    let mut entries = Vec::new();
    for entry in rest.chunks_exact(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let rights = u16::from_le_bytes([entry[2], entry[3]]);
        let who = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let (letter, _, named) = TAGS.into_iter().find(|t| t.1 == tag || t.2 == tag)?;
        let id = if tag == named && matches!(letter, "u" | "g") { who.to_string() } else { String::new() };
        let letter_of = |bit: u16, c: char| if rights & bit != 0 { c } else { '-' };
        entries.push(format!(
            "{letter}:{id}:{}{}{}",
            letter_of(4, 'r'),
            letter_of(2, 'w'),
            letter_of(1, 'x')
        ));
    }
    Some(entries.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acl_text_survives_the_kernel_form() {
        let text = "u::rwx,u:65501:r-x,g::r--,g:7:-w-,m::rwx,o::---";
        let Ok(raw) = encode_acl(text) else { panic!("refused") };
        assert_eq!(raw.len(), 4 + 6 * 8);
        assert_eq!(decode_acl(&raw).as_deref(), Some(text));
        assert_eq!(decode_acl(&raw[..5]), None);
        assert!(encode_acl("u:rwx").is_err());
    }
}
