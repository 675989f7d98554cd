//! Names of errors.

macro_rules! names {
    ($($name:ident)*) => {
        /// The name of an error number, such as `ENOENT`; none for unusual ones.
        pub fn name(number: i32) -> Option<&'static str> {
            match number {
                $(libc::$name => Some(stringify!($name)),)*
                _ => None,
            }
        }
    };
}

names! {
    EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG EBADF EAGAIN ENOMEM EACCES EFAULT EBUSY EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL
    ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK EPIPE ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY
    ELOOP ENODATA EOVERFLOW EOPNOTSUPP ENOTCONN ETIMEDOUT ECONNREFUSED ECONNABORTED ECONNRESET EHOSTUNREACH ESTALE EDQUOT
    ECANCELED EKEYEXPIRED EPROTO EREMOTEIO EBADMSG
}
