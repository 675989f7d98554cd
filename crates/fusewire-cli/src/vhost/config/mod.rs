//! `fusewire vhost --config FILE`: one process for many guests and trees, and what each guest may have of it
//! (`docs/adr/0023-config.md`).

mod budget;
mod file;
mod limits;
mod serve;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fusewire::channel::poll;
use fusewire_fs::passthrough::{self, Leases};
use fusewire_vhost::Options;

use super::args::{Cache, Sandbox, VhostArgs};
use super::guests::{self, Share};
use super::resume::Carry;
use super::sandbox::{self, Locks, Side, Tree};
use super::socket;
use super::upgrade::{self, Front};
use super::{limit_files, passthrough_options, sys};
use crate::failure::{Failure, Outcome};
use budget::Budget;
use file::{Checked, File, wrong};
use limits::Machine;

/// Options that say what the file says.
pub const NOT_BESIDE_A_FILE: [&str; 28] = [
    "shared_dir",
    "socket_path",
    "fd",
    "tag",
    "queues",
    "poll",
    "cache",
    "lease",
    "readonly",
    "xattr",
    "posix_acl",
    "security_label",
    "xattrmap",
    "translate_uid",
    "translate_gid",
    "announce_submounts",
    "no_announce_submounts",
    "shared_locks",
    "inode_file_handles",
    "dax_window",
    "dax",
    "compatible",
    "writeback",
    "no_readdirplus",
    "preserve_noatime",
    "resume",
    "migration_mode",
    "migration_on_error",
];

/// A guest with all that it is to have, but for the sandbox.
struct Tenant {
    name: String,
    share: usize,
    fs: passthrough::Options,
    device: Options,
}

/// Serves the guests in a file until a signal comes.
///
/// # Errors
/// What is wrong with the file, or keeps the guests from being served.
pub fn run(args: &VhostArgs, path: &Path) -> Outcome<()> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::new(format!("cannot read {}: {error}", path.display()))
            .or_try("a file as docs/vhost.toml describes it")
    })?;
    let told = |wrong: file::Wrong| wrong.tell(path, &text);
    let file = file::parse(&text).map_err(told)?;
    check_dirs(&file).map_err(told)?;
    check_sockets(&file).map_err(told)?;
    limit_files(args.rlimit_nofile)?;
    let machine = Machine::here();
    tracing::info!(?machine, guests = file.guests.len(), "limits that guests share");
    let budgets = budget::divide(&file, machine).map_err(told)?;
    let tenants = tenants(&file, &budgets).map_err(told)?;
    warn_of(&file, path);
    sys::allow_blocking(budgets.iter().map(|budget| budget.waits).sum())
        .map_err(|error| Failure::because("cannot make room for waiting threads", &error))?;
    serve_all(args, &file, tenants)
}

/// Listens, goes inside, and serves.
fn serve_all(args: &VhostArgs, file: &File, tenants: Vec<Tenant>) -> Outcome<()> {
    let handles = tenants.iter().any(|tenant| tenant.fs.file_handles != passthrough::FileHandles::Never);
    let capabilities = sandbox::caps::Kept::new(handles, args.modcaps)?;
    let locks = Locks { capabilities, seccomp: args.seccomp, handles };
    let ids = args.ids();
    let trees: Vec<_> = file
        .shares
        .iter()
        .map(|share| Tree { dir: share.dir.get_ref(), read_only: share.args.readonly })
        .collect();
    let plan = sandbox::Plan { how: args.sandbox, trees: &trees, ids: &ids };
    upgrade::check(&args.upgrade, tenants.iter().any(|tenant| tenant.device.window > 0))?;
    let front = front(args, file)?;
    poll::look_around();
    match sandbox::enter(&plan)? {
        Side::Outside(warden) => front.outside(warden),
        Side::Inside(mut inside) => {
            let mut inner = front.inside(args.sandbox, true)?;
            let leases = leases(file, &inside.dirs)?;
            inside.lock(&locks)?;
            let places = places(tenants, &inside, &leases)?;
            inner.check_listeners()?;
            let guests = serve::prepare(&places, inner.take()?)?;
            inner.commit(false)?;
            let (guests, taken) = guests::start(&inner.desk, guests)?;
            let count = guests.len();
            tracing::info!("fusewire is waiting for {count} virtual machines");
            inside.tell_ready(&format!("Waiting for {count} virtual machines"), inner.takes());
            if args.sandbox == Sandbox::None {
                socket::end_on_signals(inner.paths())?;
            }
            let (desk, _serving) = (inner.desk.clone(), inner.serving(taken)?);
            serve::serve(places, guests, &desk)
        }
    }
}

/// The sockets: new ones, or those of the daemon that is replaced.
fn front(args: &VhostArgs, file: &File) -> Outcome<Front> {
    if args.upgrade.upgrade {
        let paths: Vec<_> = file.guests.iter().map(|guest| guest.socket.get_ref().clone()).collect();
        return Front::ask(&paths);
    }
    let listen = |guest: &file::Guest| {
        let group = guest.group.as_deref().or(args.socket_group.as_deref());
        socket::listen_at(guest.socket.get_ref(), group)
    };
    Front::of(file.guests.iter().map(listen).collect::<Outcome<Vec<_>>>()?)
}

/// What can be told of changes, for shares that want it: before the right to hear of them is given up.
fn leases(file: &File, dirs: &[PathBuf]) -> Outcome<Vec<Option<Arc<Leases>>>> {
    let watch = |(share, dir): (&file::Share, &PathBuf)| match share.args.cache {
        Cache::Shared => guests::watch(dir, share.args.lease.unwrap_or(guests::LEASE)).map(Some),
        _ => Ok(None),
    };
    file.shares.iter().zip(dirs).map(watch).collect()
}

fn places(
    tenants: Vec<Tenant>,
    inside: &sandbox::Inside,
    leases: &[Option<Arc<Leases>>],
) -> Outcome<Vec<serve::Place>> {
    let place = |tenant: Tenant| {
        let fs = passthrough::Options { descriptors: inside.descriptors, ..tenant.fs };
        let share = Share::new(inside.dirs[tenant.share].clone(), fs, leases[tenant.share].clone())?;
        Ok(serve::Place {
            name: tenant.name,
            share: Arc::new(share),
            options: tenant.device,
            carry: Carry::nothing(),
        })
    };
    tenants.into_iter().map(place).collect()
}

/// What each guest is to have.
fn tenants(file: &File, budgets: &[Budget]) -> Checked<Vec<Tenant>> {
    let mut tenants = Vec::with_capacity(file.guests.len());
    for (guest, budget) in file.guests.iter().zip(budgets) {
        let share = &file.shares[guest.share];
        let args = &share.args;
        if args.lease.is_some() && args.cache != Cache::Shared {
            return wrong(
                share.name.span(),
                "lease says something with cache = \"shared\" alone",
                "one of them changed",
            );
        }
        let base = passthrough_options(args)
            .or_else(|failure| wrong(share.name.span(), failure.to_string(), String::new()))?;
        let dax = args
            .dax
            .options(args.readonly, guest.tag.as_deref())
            .or_else(|failure| wrong(guest.name.span(), failure.to_string(), String::new()))?;
        if let Some(tag) = &guest.tag
            && (tag.is_empty() || tag.len() > 36 || tag.contains('\0'))
        {
            return wrong(guest.name.span(), format!("the tag {tag:?}"), "1 to 36 bytes, without NUL");
        }
        let window = args.dax.window();
        if !window.is_multiple_of(fusewire_vhost::WINDOW) {
            let what = format!("dax-window: {window} bytes is no multiple of {}", fusewire_vhost::WINDOW);
            return wrong(share.name.span(), what, "a multiple of 2M");
        }
        // A guest that begins anew has what its requests of before still wait with.
        let waits = Some(passthrough::Waits::new(Some(budget.waits)));
        let fd_limit = Some(budget.files);
        let fs = passthrough::Options { dax, fd_limit, bounds: budget.bounds(), waits, ..base };
        let device = Options {
            queues: budget.queues,
            tag: guest.tag.clone(),
            window,
            spares: budget.spares,
            slots: budget.slots,
            alone: false,
            poll: guest.poll,
            ..Options::default()
        };
        tenants.push(Tenant { name: guest.name.get_ref().clone(), share: guest.share, fs, device });
    }
    Ok(tenants)
}

/// The directories are there, and none is inside another.
fn check_dirs(file: &File) -> Checked<()> {
    let mut real: Vec<(PathBuf, &file::Share)> = Vec::new();
    for share in &file.shares {
        let dir = share.dir.get_ref();
        let failed = |why: String| {
            let remedy = format!("mkdir {}, or another shared-dir", dir.display());
            wrong(share.dir.span(), format!("cannot share {}: {why}", dir.display()), remedy)
        };
        if !dir.is_absolute() {
            return wrong(
                share.dir.span(),
                format!("{} is no absolute path", dir.display()),
                "a path that begins with /",
            );
        }
        let path = match dir.canonicalize() {
            Ok(path) if path.is_dir() => path,
            Ok(_) => return failed("it is not a directory".into()),
            Err(error) => return failed(error.to_string()),
        };
        for (other, outer) in &real {
            // One tree may be shared in two ways.
            let nested = path != *other && (path.starts_with(other) || other.starts_with(&path));
            if nested {
                let what = format!(
                    "the trees of {} and {} lie inside each other: what a guest of one does the other's would take for the host's doing",
                    outer.name.get_ref(),
                    share.name.get_ref()
                );
                return wrong(share.dir.span(), what, "one share for both, or trees beside each other");
            }
        }
        real.push((path, share));
    }
    Ok(())
}

/// No two guests have one socket.
fn check_sockets(file: &File) -> Checked<()> {
    let mut known = HashMap::new();
    for guest in &file.guests {
        let socket = guest.socket.get_ref();
        let (Some(parent), Some(name)) = (socket.parent(), socket.file_name()) else {
            return wrong(guest.socket.span(), "a socket has a name", "/run/name.sock");
        };
        let parent = match parent.canonicalize() {
            Ok(parent) => parent,
            Err(error) => {
                let what = format!("cannot listen at {}: {}: {error}", socket.display(), parent.display());
                return wrong(guest.socket.span(), what, format!("mkdir {}", parent.display()));
            }
        };
        if let Some(other) = known.insert(parent.join(name), guest.name.get_ref()) {
            let what = format!("{other} and {} have the same socket", guest.name.get_ref());
            return wrong(guest.socket.span(), what, "a socket for each guest");
        }
    }
    Ok(())
}

/// What may be meant, and may not.
fn warn_of(file: &File, path: &Path) {
    for (index, share) in file.shares.iter().enumerate() {
        let name = share.name.get_ref();
        let guests = file.guests.iter().filter(|guest| guest.share == index).count();
        if guests == 0 {
            tracing::warn!("{}: no guest has the share {name}", path.display());
        }
        if guests > 1 && share.args.cache == Cache::Always && !share.args.readonly {
            tracing::warn!(
                "{}: {guests} guests have the share {name} with cache = \"always\": they do not see what others of them change",
                path.display()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        let file = file::parse(text).expect("a file");
        let checked = check_dirs(&file).and_then(|()| check_sockets(&file));
        checked.expect_err(text).tell(Path::new("f"), text).to_string()
    }

    #[test]
    fn trees_and_sockets_are_looked_at_beforehand() {
        let dir = tempfile::tempdir().expect("directory");
        let root = dir.path().display();
        std::fs::create_dir_all(dir.path().join("a/b")).expect("directory");
        std::fs::write(dir.path().join("file"), "").expect("file");
        let one = |socket: &str, name: &str| {
            format!("[guests.{name}]\nsocket-path = '{root}/{socket}'\nshare = 'x'\n")
        };
        let share = |path: &str, name: &str| format!("[shares.{name}]\nshared-dir = '{root}/{path}'\n");
        for (text, line, words) in [
            (share("none", "x") + &one("s", "g"), "f:2:14:", "No such file"),
            (share("file", "x") + &one("s", "g"), "f:2:14:", "not a directory"),
            (share("a", "x") + &share("a/b", "y") + &one("s", "g"), "f:4:14:", "inside each other"),
            (share("a/b", "x") + &share("a/b/..", "y") + &one("s", "g"), "f:4:14:", "inside each other"),
            (
                share("a", "x") + &one("s", "g") + &one("a/../s", "h"),
                "f:7:15:",
                "g and h have the same socket",
            ),
            (share("a", "x") + &one("none/s", "g"), "f:4:15:", "mkdir"),
        ] {
            let told = told(&text);
            assert!(
                told.starts_with(line) && told.contains(words) && told.contains("try:"),
                "{text}\n{told}"
            );
        }
        let twice = share("a", "x") + &share("a", "y") + &one("s", "g");
        assert!(check_dirs(&file::parse(&twice).expect("a file")).is_ok(), "one tree in two ways");
    }
}
