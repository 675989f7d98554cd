//! A tree to share, and what lies beside it.

use super::{Guest, ROOT};
use fusewire::abi::{self, Opcode};
use fusewire_vhost::kit::Layout;
use rustix::{
    fs::{CWD, FileType, Mode},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    },
};
use std::{
    ffi::CString,
    fs::{self, File},
    io::Read,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{MetadataExt, symlink},
    },
    path::{Path, PathBuf},
};
use zerocopy::IntoBytes;

/// What lies in the directory that has the shared one in it.
const BESIDE: [&str; 3] = ["other", "secret", "share"];

/// A filesystem in memory: `share` for the guest, and beside it what it must not reach.
pub struct Tree {
    /// Of the filesystem, which nobody has attached anywhere: it goes with this. Without root a directory does it.
    _mount: Option<OwnedFd>,
    _dir: Option<tempfile::TempDir>,
    base: PathBuf,
    /// Sixteen random bytes in hexadecimal digits: chance does not find them, nor what a fuzzer knows of the program.
    pub secret: String,
    /// When the secret was changed last.
    changed: (i64, i64),
    runs: u64,
}

fn memory() -> Result<OwnedFd, rustix::io::Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    // A guest that fills it fills nothing else, and a device that it makes there is none.
    fsconfig_set_string(&context, "size", "64m")?;
    fsconfig_set_string(&context, "nr_inodes", "20k")?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)
}

impl Tree {
    pub fn new() -> Self {
        let mount = memory().ok();
        let dir = mount.is_none().then(|| tempfile::tempdir().expect("a directory"));
        let base = match (&mount, &dir) {
            (Some(mount), _) => PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd())),
            (None, dir) => dir.as_ref().expect("a directory").path().to_owned(),
        };
        let mut random = [0; 16];
        File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut random)).expect("random bytes");
        let secret: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(base.join("secret"), &secret).expect("the secret");
        fs::create_dir(base.join("share")).expect("a directory");
        let other = base.join("other");
        fs::create_dir(&other).expect("a directory");
        fs::write(other.join(&secret), &secret).expect("a file");
        symlink(&secret, other.join("link")).expect("a link");
        let meta = fs::metadata(base.join("secret")).expect("the secret");
        let changed = (meta.ctime(), meta.ctime_nsec());
        let tree = Self { _mount: mount, _dir: dir, base, secret, changed, runs: 0 };
        tree.fill();
        tree
    }

    /// What the guest is given.
    pub fn share(&self) -> PathBuf {
        self.base.join("share")
    }

    /// The second guest's.
    pub fn other(&self) -> PathBuf {
        self.base.join("other")
    }

    /// What names and links are to lead to.
    pub fn base(&self) -> &Path {
        &self.base
    }

    fn fill(&self) {
        let share = self.share();
        fs::write(share.join("a"), [b'a'; 5000]).expect("a file");
        fs::create_dir_all(share.join("dir/deep")).expect("directories");
        fs::write(share.join("dir/b"), "b").expect("a file");
        for (target, name) in [("a", "link"), ("../secret", "out"), ("..", "up"), ("../other", "dir/other")] {
            symlink(target, share.join(name)).expect("a link");
        }
        symlink("/etc/passwd", share.join("abs")).expect("a link");
        let fifo = share.join("fifo");
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).expect("a fifo");
    }

    /// Nothing beside the shared directory has changed; after some runs what the guests have made is thrown away.
    ///
    /// Returns whether the tree was made anew.
    pub fn check(&mut self) -> bool {
        let secret = self.base.join("secret");
        let meta = fs::metadata(&secret).expect("the secret is there");
        assert_eq!((meta.ctime(), meta.ctime_nsec()), self.changed, "the secret was changed");
        assert_eq!(fs::read_to_string(&secret).expect("the secret"), self.secret, "the secret was changed");
        assert_eq!(names(&self.base), BESIDE, "the directory beside was changed");
        assert_eq!(names(&self.other()), [self.secret.as_str(), "link"].map(String::from).to_vec().sorted());
        self.runs += 1;
        if self.runs.is_multiple_of(64) {
            fs::remove_dir_all(self.share()).expect("the shared directory goes");
            fs::create_dir(self.share()).expect("a directory");
            self.fill();
            return true;
        }
        false
    }

    /// Is the secret in there?
    pub fn is_told(&self, bytes: &[u8]) -> bool {
        memchr::memmem::find(bytes, self.secret.as_bytes()).is_some()
    }
}

trait Sorted {
    fn sorted(self) -> Self;
}

impl Sorted for Vec<String> {
    fn sorted(mut self) -> Self {
        self.sort();
        self
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory");
    let name = |entry: std::io::Result<fs::DirEntry>| {
        entry.expect("an entry").file_name().to_string_lossy().into_owned()
    };
    entries.map(name).collect::<Vec<_>>().sorted()
}

/// A guest of the same process, whose files, names, links and attributes are all the secret.
pub struct Neighbour {
    guest: Guest,
    node: u64,
    fh: u64,
    link: u64,
    secret: String,
}

impl Neighbour {
    pub fn new(tree: &Tree) -> Self {
        let layout = Layout { depth: 2, data: 4096, ..Layout::default() };
        let mut guest = Guest::start(&tree.other(), layout);
        let driver = guest.monitor.driver();
        driver.init().expect("a session");
        let name = CString::new(tree.secret.as_str()).expect("a name");
        let node = driver.lookup(ROOT, &name).expect("its file").nodeid;
        let fh = driver.open(node, 2).expect("its file");
        let link = driver.lookup(ROOT, c"link").expect("its link").nodeid;
        Self { guest, node, fh, link, secret: tree.secret.clone() }
    }

    /// It has what it had, and has it handed around once more.
    pub fn check(&mut self) {
        let driver = self.guest.monitor.driver();
        assert_eq!(driver.read(self.node, self.fh, 0, 4096).as_deref(), Ok(self.secret.as_bytes()));
        assert_eq!(driver.call(Opcode::Readlink, self.link, &[]).as_deref(), Ok(self.secret.as_bytes()));
        let bytes =
            driver.call(Opcode::Opendir, ROOT, &[abi::OpenIn::default().as_bytes()]).expect("a listing");
        let fh = u64::from_ne_bytes(*bytes.first_chunk().expect("a handle"));
        assert_eq!(driver.readdir(ROOT, fh).expect("a listing").len(), 4);
        driver.call(Opcode::Releasedir, ROOT, &[abi::ReleaseIn { fh, ..Default::default() }.as_bytes()]).ok();
    }
}
