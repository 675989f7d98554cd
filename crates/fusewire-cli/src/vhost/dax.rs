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

/// Smaller files are not worth a place in the window.
const MIN: u64 = 2 << 20;

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
    /// With --dax inode: files of at least this size [default: 2M]
    #[arg(long, value_name = "SIZE", value_parser = bytes, requires = "dax_window")]
    pub dax_min: Option<u64>,
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
        let chooses = self.dax_min.is_some() || !self.dax_match.is_empty();
        if chooses && !matches!(self.dax, None | Some(Which::Inode)) {
            let why = "--dax-min and --dax-match choose files with --dax inode alone";
            return Err(Failure::usage(why).or_try("--dax inode, or the same without them"));
        }
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
            _ => passthrough::Dax { min_size: self.dax_min.unwrap_or(MIN), names: self.dax_match.clone() },
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_chosen_where_they_can_be() {
        let dax = |dax, dax_min| DaxArgs { dax_window: Some(8 << 20), dax, dax_min, dax_match: Vec::new() };
        let options = |dax: DaxArgs| dax.options(false, Some("tag"));
        let least = |dax| options(dax).expect("options").expect("a window").min_size;
        assert_eq!([least(dax(None, None)), least(dax(Some(Which::Inode), Some(4096)))], [2 << 20, 4096]);
        assert_eq!(least(dax(Some(Which::Always), None)), passthrough::Dax::default().min_size);
        for which in [Which::Always, Which::Never] {
            let refused = options(dax(Some(which), Some(4096))).expect_err("refused").to_string();
            assert!(refused.contains("--dax inode"), "{refused}");
        }
    }
}
