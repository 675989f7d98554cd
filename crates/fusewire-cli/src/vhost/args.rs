//! What `fusewire vhost` takes: the options of virtiofsd, as far as they mean something here.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum, ValueHint};

use fusewire_fs::passthrough::{IdRule, XattrMap};

use super::caching::Caching;
use super::dax::DaxArgs;
use super::former::Former;
use super::resume::ResumeArgs;
use super::sandbox::caps::Changes;
use super::sandbox::ids::{Ids, Range};
use super::sandbox::seccomp::Action;
use super::upgrade::UpgradeArgs;
use crate::args::number;

/// What stands below the help of `fusewire vhost`.
pub const NOTES: &str = "\
Examples:
  fusewire vhost --socket-path /run/share.sock --shared-dir /srv/share
      Waits for one virtual machine, serves it, and ends with it.

  With QEMU:
    qemu-system-x86_64 ... -m 4G \\
      -object memory-backend-memfd,id=mem,size=4G,share=on -machine q35,memory-backend=mem \\
      -chardev socket,id=share,path=/run/share.sock \\
      -device vhost-user-fs-pci,chardev=share,tag=share,num-request-queues=4,queue-size=1024
  In the guest:
    mount -t virtiofs share /mnt

  With User Mode Linux, which asks the device for its tag:
    fusewire vhost --socket-path /run/share.sock --shared-dir /srv/share --tag share
    linux.uml ... virtio_uml.device=/run/share.sock:26

  Two machines that share a directory, what they remember of it no older than 2 s:
    fusewire vhost --socket-path /run/a.sock --socket-path /run/b.sock --shared-dir /srv/share --cache shared --lease 2

Many guests and trees (--config FILE):
  [defaults]
  queues = 1
  [shares.home]
  shared-dir = \"/srv/home\"
  cache = \"shared\"
  [guests.web]
  socket-path = \"/run/web.sock\"
  share = \"home\"
  memory = \"256M\"
  A share has the options of this command, without --. A guest has socket-path, share, tag, queues, poll, socket-group, and budgets, so that none \
takes from others: descriptors, memory and threads. Without them it gets an equal part of the limits of the process and the machine. At a \
budget the guest gets an errno, others notice nothing. Guests may come and go; the daemon ends with SIGTERM. docs/vhost.toml explains all of it.

Queues:
  A queue of 128 entries, QEMU's default, holds requests of 496 KiB; one of 1024 holds 1 MiB. From Linux 6.12 on a guest has one \
  request queue for each CPU, up to num-request-queues; older ones use one.

Polling:
  A guest that asks for something leaves the processor to tell the daemon, whose thread must be woken. While the thread looks by itself, neither \
happens; but it keeps a CPU from everybody else. auto tries what that gains and goes on only while it pays, on half of the CPUs at most for all \
guests of the daemon together. With -vv each change is said, and why.

DAX:
  With --dax-window a guest reads and writes files in the host's page cache, without one of its own and without requests. It takes   CONFIG_FUSE_DAX in the guest and a monitor with vhost-user's shared memory regions, such as QEMU 11.1 with its generic device:
    fusewire vhost --socket-path /run/share.sock --shared-dir /srv/share --tag share --dax-window 8G
    qemu-system-x86_64 ... -device vhost-user-test-device-pci,chardev=share,virtio-id=26,num_vqs=5,vq_size=1024,config_size=44
  num_vqs is the request queues and one more. In the guest: mount -t virtiofs share /mnt, which maps what --dax says, or with   -o dax=always all files, or with -o dax=never none. While a guest has a file mapped the host cannot execute it, and must not   truncate it: QEMU ends when its guest touches what is gone.

Upgrade:
  The new program, called as the old one was and with --upgrade, takes its guests: they stay connected, wait for some milliseconds, and keep \
what they have open, and their locks. Then the old daemon ends. If anything goes wrong it serves on, and the new one says why.
    fusewire vhost --upgrade --socket-path /run/share.sock --shared-dir /srv/share
  It asks at /run/share.sock.upgrade, beside the first socket, which only the user of the daemon can connect to.

Sandbox:
  By default the daemon forks. The process that was called waits outside; the one that serves sees DIR, its own part of proc, and nothing \
else: no other files, processes or network. It keeps the capabilities chown, dac_override, fowner, fsetid, setgid, setuid, mknod, setfcap, \
and dac_read_search unless --inode-file-handles is never. System calls that serving does not take kill it. Without root it is in a user \
namespace, where all belongs to the one user that started it, unless --uid-map and --gid-map name more and newuidmap grants them.

Users and groups (--translate-uid, --translate-gid):
  map:GUEST:HOST:COUNT            a range of the guest's ids is another one here, both ways
  guest:GUEST:HOST:COUNT          what the guest does in these names is done in those
  host:HOST:GUEST:COUNT           what belongs to these is shown to the guest as those
  squash-guest:GUEST:HOST:COUNT   the same with one id HOST for all
  squash-host:HOST:GUEST:COUNT    the same with one id GUEST for all
  forbid-guest:GUEST:COUNT        nothing is done in these names
  Others stay as they are. Access control lists are not translated and cannot be had at the same time.

Extended attributes (--xattrmap):
  :map::user.virtiofs.:           all names of the guest are kept with user.virtiofs. in front, which needs no privilege
  :map:trusted.:user.virtiofs.:   the same for those that begin with trusted.
  :bad:all:security.:security.: :ok:all:::
                                  names that begin with security. are refused and hidden, others are as they are
  TYPE is prefix, ok, bad or unsupported; SCOPE is client for names that the guest asks for, which begin with KEY, server for names that \
are listed, which begin with PREPEND, or all. The first rule that matches counts.

Coming from virtiofsd:
  Its options have the same names here. What is not there yet is refused, not passed over.";

/// What the guest may remember.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Cache {
    /// Nothing: several guests, or the host, write to DIR
    #[value(alias = "none")]
    Never,
    /// Names and attributes for a second, data as long as the file has not changed
    #[default]
    Auto,
    /// Everything, until it is changed by this guest: DIR must not be changed in other ways
    Always,
    /// What others have not changed for long, no longer than --lease says, and nothing of what others are changing: for guests, one
    /// --socket-path each, and programs of the host that share DIR
    Shared,
}

/// When something is offered to guests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// Never
    #[default]
    Never,
    /// To guests that want it
    Auto,
    /// To all, and guests that do not want it cannot mount
    Always,
}

/// How the daemon shuts itself in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Sandbox {
    /// In namespaces of its own, without root in a user namespace: nothing but DIR is there
    #[default]
    Namespace,
    /// With DIR as its root directory: for containers that may not make namespaces; takes root
    Chroot,
    /// Not at all
    None,
}

/// Whether files are remembered by file handle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum InodeFileHandles {
    /// Never: each file that the guest knows costs a file descriptor
    Never,
    /// Where DIR and the rights of the user allow it
    #[default]
    #[value(alias = "fallback")]
    Prefer,
    /// Always: fail where it is not possible
    Mandatory,
}

/// What `fusewire vhost` takes.
#[derive(Args, Debug)]
pub struct VhostArgs {
    /// Directory to share
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, required_unless_present_any = ["print_capabilities", "compatible", "config"])]
    pub shared_dir: Option<PathBuf>,
    /// Serve many guests and trees by what FILE says (TOML; docs/vhost.toml), until SIGTERM; see below
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = super::config::NOT_BESIDE_A_FILE)]
    pub config: Option<PathBuf>,
    /// Socket to make, where the virtual machine connects; once for each machine that DIR is shared with
    #[arg(long, alias = "socket", value_name = "PATH", value_hint = ValueHint::FilePath, required_unless_present_any = ["fd", "print_capabilities", "config"])]
    pub socket_path: Vec<PathBuf>,
    /// Listening socket that the caller has made, by its descriptor
    #[arg(long, value_name = "NUMBER", value_parser = number(0..=i32::MAX), conflicts_with_all = ["socket_path", "socket_group"])]
    pub fd: Option<i32>,
    /// Group whose members may connect
    #[arg(long, value_name = "GROUP")]
    pub socket_group: Option<String>,
    /// Name to mount by, for monitors that ask the device for it
    #[arg(long, value_name = "TAG")]
    pub tag: Option<String>,
    /// Request queues: at least as many as the virtual machine is given [default: one per CPU, at most 8]
    #[arg(long, value_name = "N", value_parser = number(1..=fusewire_vhost::MAX_QUEUES))]
    pub queues: Option<u16>,
    /// How threads of queues wait for requests: off, they sleep; auto, they look for requests before they sleep while that pays and a CPU
    /// is free; fixed:US, they do so for so many microseconds, which is for CPUs that are reserved [default: auto]
    #[arg(long, value_name = "HOW")]
    pub poll: Option<fusewire::server::Poll>,
    /// What the guest may remember
    #[arg(long, value_name = "WHAT", default_value = "auto")]
    pub cache: Cache,
    /// How old at most what a guest sees may be with --cache shared, seconds [default: 5]
    #[arg(long, value_name = "SECONDS", value_parser = lease)]
    pub lease: Option<Duration>,
    #[command(flatten)]
    pub caching: Caching,
    /// Refuse every change
    #[arg(long)]
    pub readonly: bool,
    /// Extended attributes
    #[arg(long)]
    pub xattr: bool,
    /// Access control lists: `auto` for guests that want them, `always` for no others; they imply --xattr
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_value = "never", default_missing_value = "always")]
    pub posix_acl: When,
    /// Labels of security modules on what the guest makes: `auto` for guests that want them, `always` for no others; they imply --xattr
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_value = "never", default_missing_value = "always")]
    pub security_label: When,
    /// Rename extended attributes: `:TYPE:SCOPE:KEY:PREPEND:`, one rule after the other, or `:map:KEY:PREPEND:`; see below
    #[arg(long, value_name = "RULES")]
    pub xattrmap: Option<XattrMap>,
    /// Users of the guest have other numbers here, several times if need be; see below
    #[arg(long, value_name = "RULE")]
    pub translate_uid: Vec<IdRule>,
    /// Groups of the guest have other numbers here
    #[arg(long, value_name = "RULE")]
    pub translate_gid: Vec<IdRule>,
    /// Tell the guest which directories are mounts, so that each has a device number of its own there [default]
    #[arg(long)]
    pub announce_submounts: bool,
    /// Do not
    #[arg(long, overrides_with = "announce_submounts")]
    pub no_announce_submounts: bool,
    /// Locks that the guest takes hold for everybody who uses DIR, not in the guest alone
    #[arg(long)]
    pub shared_locks: bool,
    /// Whether files are remembered by file handle
    #[arg(long, value_name = "WHEN", default_value = "prefer")]
    pub inode_file_handles: InodeFileHandles,
    /// Most file descriptors; 0 leaves the limit as it is [default: as many as are allowed]
    #[arg(long, value_name = "N", value_parser = number(0..=u64::MAX))]
    pub rlimit_nofile: Option<u64>,
    /// How the daemon shuts itself in
    #[arg(long, value_name = "HOW", default_value = "namespace")]
    pub sandbox: Sandbox,
    /// Users of the sandbox, several times if need be: INSIDE is OUTSIDE on this machine, and so on, COUNT of them
    #[arg(long, value_name = ":INSIDE:OUTSIDE:COUNT:")]
    pub uid_map: Vec<Range>,
    /// Groups of the sandbox
    #[arg(long, value_name = ":INSIDE:OUTSIDE:COUNT:")]
    pub gid_map: Vec<Range>,
    /// Capabilities to keep or drop, with colons between: +sys_admin:-mknod
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    pub modcaps: Option<Changes>,
    /// What happens at system calls that serving does not take
    #[arg(long, value_name = "ACTION", default_value = "kill")]
    pub seccomp: Action,
    /// Taken for the sake of virtiofsd's users: threads come and go here as they are needed
    #[arg(long, value_name = "N", value_parser = number(0..=u32::MAX))]
    pub thread_pool_size: Option<u32>,
    /// Messages go to the log of the system, not to standard error
    #[arg(long)]
    pub syslog: bool,
    #[command(flatten)]
    pub former: Former,
    /// Print what there is, as JSON, for libvirt and its like
    #[arg(long)]
    pub print_capabilities: bool,
    #[command(flatten)]
    pub dax: DaxArgs,
    #[command(flatten)]
    pub resume: ResumeArgs,
    #[command(flatten)]
    pub upgrade: UpgradeArgs,
}

impl VhostArgs {
    /// The ids there are to be in the sandbox.
    pub fn ids(&self) -> Ids {
        Ids { users: self.uid_map.clone(), groups: self.gid_map.clone() }
    }
}

/// Seconds, with a fraction if wanted.
fn lease(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "seconds are a number, such as 5 or 0.5".to_owned())?;
    match (0.0..=3600.0).contains(&seconds) {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => Err("from 0 to 3600 seconds are possible".into()),
    }
}
