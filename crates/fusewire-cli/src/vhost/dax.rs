//! Which files a guest maps instead of caching them.

use clap::{Args, ValueEnum};
use fusewire_fs::passthrough;

use crate::args::bytes;
use crate::failure::{Failure, Outcome};

/// Which files a guest is to map, unless its mount says so itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Which {
    /// None: there is no window
    Never,
    /// Those that --dax-min and --dax-match choose
    Inode,
    /// All
    Always,
}

/// Options of the DAX window.
#[derive(Args, Debug)]
#[command(next_help_heading = "DAX")]
pub struct DaxArgs {
    /// Give the guest a window of this size, where it maps files of DIR instead of having pages of its own for them: a multiple of 2M
    ///
    /// The monitor must know of vhost-user's shared memory regions. QEMU 11.1 does so in its generic device; see below.
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub dax_window: Option<u64>,
    /// Which files a guest maps that mounts without the option dax, or with dax=inode [default: inode]
    #[arg(long, value_name = "WHICH", requires = "dax_window")]
    pub dax: Option<Which>,
    /// With --dax inode: files of at least this size
    #[arg(long, value_name = "SIZE", default_value = "2M", value_parser = bytes, requires = "dax_window")]
    pub dax_min: u64,
    /// With --dax inode: files with names like this, by * and ?; may be given several times
    #[arg(long, value_name = "GLOB", requires = "dax_window")]
    pub dax_match: Vec<String>,
}

impl DaxArgs {
    /// How long the window is: 0 without one.
    pub fn window(&self) -> u64 {
        match self.dax {
            Some(Which::Never) => 0,
            _ => self.dax_window.unwrap_or(0),
        }
    }

    /// What the filesystem is to know of it.
    ///
    /// # Errors
    /// If the options do not go together.
    pub fn options(&self, read_only: bool, tag: Option<&str>) -> Outcome<Option<passthrough::Dax>> {
        if self.window() == 0 {
            return Ok(None);
        }
        if read_only {
            let why = "--dax-window with --readonly: QEMU maps no file that cannot be opened for writing";
            return Err(Failure::usage(why).or_try("one of them without the other"));
        }
        if tag.is_none() {
            let why =
                "--dax-window without --tag: the devices of QEMU that have a window ask for the tag here";
            return Err(Failure::usage(why).or_try("--tag NAME, and mount NAME in the guest"));
        }
        Ok(Some(match self.dax {
            Some(Which::Always) => passthrough::Dax::default(),
            _ => passthrough::Dax { min_size: self.dax_min, names: self.dax_match.clone() },
        }))
    }
}
