//! INIT: who gets what, and why not.

use fusewire::{
    Errno, InitFlags,
    abi::{self, InitIn, InitOut},
    proto::negotiate::{Agreed, Bounds, Negotiation, Refused, negotiate},
    session::Config,
};
use zerocopy::{FromBytes, IntoBytes};

fn offer(minor: u32, flags: InitFlags) -> InitIn {
    let (low, high) = flags.to_words();
    InitIn { major: 7, minor, max_readahead: 128 << 10, flags: low, flags2: high, ..Default::default() }
}

fn agree(init: &InitIn, bounds: Bounds, ask: impl FnOnce(&mut Config)) -> (InitOut, Agreed, Vec<Refused>) {
    let (args, payload) = init.as_bytes().split_at(16);
    let outcome = negotiate(args, payload, bounds, |config| {
        ask(config);
        Ok(())
    });
    match outcome {
        Ok(Negotiation::Agreed(out, agreed, refused)) => (out, agreed, refused),
        other => panic!("{other:?}"),
    }
}

fn reason(refused: &[Refused], flag: InitFlags) -> &'static str {
    refused
        .iter()
        .find(|r| r.flag == flag)
        .unwrap_or_else(|| panic!("{flag:?} is not among {refused:?}"))
        .reason
}

#[test]
fn a_filesystem_without_wishes_gets_the_defaults_that_the_kernel_offers() {
    let offered = InitFlags::ASYNC_READ | InitFlags::INIT_EXT | InitFlags::PARALLEL_DIROPS;
    let (out, agreed, refused) = agree(&offer(31, offered), Bounds::default(), |_| {});
    assert_eq!(agreed.flags, offered);
    assert_eq!((out.major, out.minor), (7, 31));
    assert!(refused.is_empty(), "{refused:?}");
    // Without MAX_PAGES a request holds 32 pages.
    assert_eq!(out.max_write, 32 * 4096);
}

#[test]
fn a_kernel_newer_than_this_crate_is_answered_with_our_minor() {
    let (out, agreed, _) = agree(&offer(99, InitFlags::all()), Bounds::default(), |_| {});
    assert_eq!((out.minor, agreed.minor), (abi::KERNEL_MINOR_VERSION, abi::KERNEL_MINOR_VERSION));
    assert_eq!((out.max_write, out.max_pages), (1 << 20, 256));
}

#[test]
fn what_is_not_offered_or_not_possible_is_refused_with_the_reason() {
    let want = |flags| move |config: &mut Config| _ = config.want(flags);
    let (_, agreed, refused) =
        agree(&offer(46, InitFlags::all() - InitFlags::POSIX_ACL), Bounds::default(), want(InitFlags::all()));
    assert_eq!(reason(&refused, InitFlags::POSIX_ACL), "the kernel does not offer it");
    for flag in [
        InitFlags::OVER_IO_URING,
        InitFlags::PASSTHROUGH,
        InitFlags::ALLOW_IDMAP,
        InitFlags::EXPLICIT_INVAL_DATA,
        InitFlags::REQUEST_TIMEOUT,
        InitFlags::EXPORT_SUPPORT,
    ] {
        assert!(!agreed.flags.contains(flag) && !reason(&refused, flag).is_empty());
    }
    let (_, agreed, refused) =
        agree(&offer(37, InitFlags::all()), Bounds::default(), want(InitFlags::SECURITY_CTX));
    assert!(!agreed.flags.contains(InitFlags::SECURITY_CTX));
    assert!(reason(&refused, InitFlags::SECURITY_CTX).contains("7.38"));
    let (_, agreed, _) =
        agree(&offer(38, InitFlags::all()), Bounds::default(), want(InitFlags::SECURITY_CTX));
    assert!(agreed.flags.contains(InitFlags::SECURITY_CTX));
}

#[test]
fn the_second_word_is_empty_without_init_ext() {
    let (out, agreed, _) = agree(&offer(46, InitFlags::all()), Bounds::default(), |config| {
        config.want(InitFlags::CREATE_SUPP_GROUP);
        config.without(InitFlags::INIT_EXT);
    });
    assert_eq!((out.flags2, out.flags & 1 << 30), (0, 0));
    assert!(!agreed.flags.contains(InitFlags::CREATE_SUPP_GROUP));
}

#[test]
fn other_versions_are_refused_or_asked_again() {
    let ask = |init: &InitIn| {
        let (args, payload) = init.as_bytes().split_at(16);
        negotiate(args, payload, Bounds::default(), |_| panic!("nothing to ask"))
    };
    assert_eq!(ask(&InitIn { major: 6, ..offer(46, InitFlags::all()) }).unwrap_err(), Errno::PROTO);
    assert_eq!(ask(&offer(30, InitFlags::all())).unwrap_err(), Errno::PROTO);
    match ask(&InitIn { major: 8, ..offer(0, InitFlags::empty()) }) {
        Ok(Negotiation::Again(out)) => assert_eq!((out.major, out.minor), (7, abi::KERNEL_MINOR_VERSION)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn short_init_is_refused_and_the_old_form_understood() {
    let init = offer(46, InitFlags::ASYNC_READ | InitFlags::INIT_EXT | InitFlags::CREATE_SUPP_GROUP);
    for len in 0..8 {
        let result = negotiate(&init.as_bytes()[..len], &[], Bounds::default(), |_| Ok(()));
        assert_eq!(result.unwrap_err(), Errno::INVAL);
    }
    // Before 7.36 INIT ended after the first word of flags: the second reads as zero.
    let old = negotiate(&init.as_bytes()[..16], &[], Bounds::default(), |config| {
        assert_eq!(config.offered(), InitFlags::ASYNC_READ | InitFlags::INIT_EXT);
        Ok(())
    });
    assert!(matches!(old, Ok(Negotiation::Agreed(..))));
    // A later one may be longer than ours.
    let longer = [init.as_bytes(), &[0xff; 64]].concat();
    assert!(negotiate(&longer[..16], &longer[16..], Bounds::default(), |_| Ok(())).is_ok());
    assert_eq!(InitIn::read_from_bytes(&longer[..64]).unwrap(), init);
}
