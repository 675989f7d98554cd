//! What a virtual machine with a window is asked for.

use super::*;
use fusewire::channel::loopback::FakeKernelOptions;

const ALWAYS: InitFlags = InitFlags::all().difference(InitFlags::HAS_INODE_DAX);
const NO_WINDOW: InitFlags =
    InitFlags::all().difference(InitFlags::HAS_INODE_DAX.union(InitFlags::MAP_ALIGNMENT));

/// What is agreed on of how the kernel sees that data has changed.
fn agreed(cache: CacheProfile, dax: Option<Dax>, offers: InitFlags) -> InitFlags {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { cache, dax, ..Options::default() };
    let fs = Passthrough::new(dir.path(), options).unwrap();
    let kernel = FakeKernel::with(fs, FakeKernelOptions { offers, ..Default::default() }, ()).unwrap();
    kernel.agreed().flags & (InitFlags::AUTO_INVAL_DATA | InitFlags::EXPLICIT_INVAL_DATA)
}

/// Its kernel takes pages from those who have them mapped whenever it finds another time or size, with no flag or with AUTO_INVAL_DATA.
#[test]
fn a_guest_that_maps_all_files_drops_no_pages_by_itself() {
    let some = Some(Dax { min_size: 1, names: Vec::new() });
    let named = Some(Dax { min_size: 0, names: vec!["*.so".into()] });
    for cache in [CacheProfile::None, CacheProfile::Auto, CacheProfile::Always] {
        for dax in [Some(Dax::default()), some.clone(), named.clone()] {
            assert_eq!(agreed(cache, dax, ALWAYS), InitFlags::EXPLICIT_INVAL_DATA, "{cache:?}, dax=always");
        }
        let every = agreed(cache, Some(Dax::default()), InitFlags::all());
        assert_eq!(every, InitFlags::EXPLICIT_INVAL_DATA, "{cache:?}, asked of each file, and told yes");
        let usual = match cache {
            CacheProfile::Auto => InitFlags::AUTO_INVAL_DATA,
            _ => InitFlags::empty(),
        };
        for dax in [some.clone(), named.clone()] {
            assert_eq!(agreed(cache, dax, InitFlags::all()), usual, "{cache:?}, files that are copied, too");
        }
        assert_eq!(agreed(cache, Some(Dax::default()), NO_WINDOW), usual, "{cache:?}, dax=never");
        assert_eq!(agreed(cache, None, InitFlags::all()), usual, "{cache:?}, no window");
    }
}
